"""Texts of the source that no person reads at the terminal, and why: prompts, patterns, names, descriptions of the API."""

# Modules of which no text is a message, and why.
OTHER_MODULES = {
    "data/faults/language.py": "words by which a language is told",
    "eval/answer_extraction.py": "names of units, in answers",
    "eval/general_probe.py": "questions to models",
    "eval/llm_judge.py": "a prompt",
    "eval/task_prompts.py": "prompts",
    "export/gguf/pretokenizer.py": "texts that tokenizers are tried on",
    "hub/card_metadata.py": "names of licences",
    "report/card_commands.py": "commands of the model card",
    "report/svg_charts.py": "parts of pictures",
    "serve/metrics.py": "metrics, in Prometheus' form",
    "synthesis/pass_rate.py": "arithmetic",
    "tokenization/think_template.py": "templates of templates",
    "translation/": "the catalogue itself",
}

# Texts beside messages: what models, other programs and readers of the API meet.
OTHER_TEXTS = {
    # commands/chat.py
    "bold red",
    "dim italic",
    # commands/check.py
    "[bold {}]{}[/]: {}",
    "bold green",
    # config/row_faults.py
    "the provided answer",
    "the given answer",
    "the reference answer",
    "the answer provided",
    "the provided response",
    "answer provided by the user",
    "answer given by the user",
    "answer the user provided",
    "answer the user gave",
    "according to the answer",
    "answer is already given",
    "answer is already provided",
    "user already provided the answer",
    # data/columns/modes.py
    "thinking on",
    "no think",
    "no thinking",
    "non thinking",
    "not thinking",
    "thinking off",
    "no reasoning",
    "non reasoning",
    # data/faults/handed_phrases.py
    # data/faults/marks/placeholders.py
    "orem ipsum",
    # data/own_answers/questions.py
    "The base answers this itself.",
    # data/reading/compression.py
    "only a position from the start can be sought",
    # data/reading/tables.py
    "unexpected end of data",
    # distributed/world.py
    "Connection closed by peer",
    "Timed out waiting",
    # eval/exams/catalogue.py
    "exams name unknown sets: {}",
    # eval/one_answer.py
    # export/chat_form.py
    "What is it?",
    "It pumps.\n\nYes.",
    "Thought {}.\n\nMore.",
    "Be kind.\nBe brief.",
    # export/engines.py
    # export/export.py
    "MiB of {}",
    # export/gguf/architecture.py
    "hidden_act: {}",
    "sliding_window: {}",
    "rope_type: {} (of {})",
    "rope_type: llama3",
    "attn_logit_softcapping: {}",
    "use_bidirectional_attention: true",
    "partial_rotary_factor: {}",
    "rope_type: {}",
    # export/gguf/llama_cpp.py
    "a text has no more tokens than bytes",
    # export/gguf/tokenizer.py
    # export/ollama.py
    'PARAMETER stop "{}"',
    "ollama create {} -f {}",
    # export/verification.py
    "I'm sure they'll say it's what we'd've done; DON'T they've",
    "leading and trailing",
    "naïve façade Straße œuvre İstanbul",
    "ABCdef GHIjkl_mnoPQR snake_case camelCase",
    # hub/huggingface_upload.py
    "Upload {} files by thinktune",
    # inference/cached_attention.py
    "{} is set only within a pass of the KV cache",
    # inference/kv_cache.py
    "a prompt whose state is recurrent is read as a whole",
    "a recurrent state has other addresses after every pass",
    # inference/sampling/grammar.py
    "{}start: %json {}",
    "{}start: {}",
    # model/batch.py
    "the padding was made for other rows",
    # model/loss.py
    "the loss is the last number: its scale is given, not multiplied",
    # report/exam_section.py
    "Correct answers of base and tuned by reasoning budget",
    # report/model_card.py
    "{}<!-- thinktune card {} -->",
    # report/pilot_page.py
    "raw prompt",
    # report/run_charts.py
    "train raw",
    # report/run_sections/evaluation_words.py
    "of one {} by up to ±{}",
    # run/thought_folder.py
    "is no share within its interval",
    # serve/feedback.py
    "Say where feedback is saved, and what could be asked.",
    "Make a row from a reply with a thumb or a correction; null undoes it.",
    "Save a vote between two replies with hidden names; null undoes it.",
    # serve/models.py
    "pass on",
    # serve/openai_schema.py
    "The body is not a valid request, or the conversation is too long.",
    "The API key is missing or wrong.",
    "The request comes from a page of another site.",
    "Model or address not found.",
    "This address needs another method.",
    "The body arrived too slowly.",
    "The body is too large.",
    "The body is not application/json.",
    "The Host header names another server.",
    "Too many requests are waiting.",
    "The server failed.",
    "The server that writes the replies is gone, fails, or refuses this server's key.",
    "The reply took too long.",
    # serve/reply_response.py
    "text/event-stream; charset=utf-8",
    "data: {}",
    "event: {}\ndata: {}",
    "reply of {}",
    "a reply failed: %s",
    # serve/server.py
    "Write the next reply of a conversation, whole or as a stream of server-sent events.",
    "Continue texts as they are, without a chat template, whole or as a stream of server-sent events.",
    "Write the next reply of a conversation as a response of items, whole or as a stream of typed events.",
    "Report that the server is up.",
    "Name the server's version.",
    "Count requests, replies, tokens and seconds, in Prometheus' text format.",
    "List the models.",
    "Describe one model.",
    # serve/surfaces/routes.py
    "Write the next message of a conversation in Anthropic's form, whole or as a stream of typed events.",
    "Count the tokens of a conversation.",
    "Write the next message of a conversation in Ollama's form.",
    "Answer one question in Ollama's form.",
    "Describe one model in Ollama's form.",
    "List the models in Ollama's form.",
    "Name the version of Ollama's API.",
    # synthesis/free_text_agreement.py
    # synthesis/questions.py
    "First think it through step by step between <think> and </think>. After </think>, write only your answer.",
    "(A right answer is: {answer}\nThis is for you alone. Work the question out as somebody who has not seen it, do not mention it, and then give your answer.)",
    # synthesis/shortening.py
    "Below are a question and somebody's thoughts about it. Rewrite the thoughts in at most {words} words, in the same language and in the first person, as if they had been thought that way at once. Keep every step that the conclusion needs, leave out repetitions, detours and settled doubts, and add nothing. Write only the rewritten thoughts.\n\n[Question]\n{question}\n\n[Thoughts]\n{reasoning}",
    'Below are a question and somebody\'s thoughts about it. Which answer do these thoughts lead to? Go by the thoughts alone, even where you would think otherwise, and write only that answer; if they lead to none, write "none".\n\n[Question]\n{question}\n\n[Thoughts]\n{reasoning}',
    # tokenization/model_template.py
    "What does the heart pump?",
    "It pumps blood.",
    "A muscle that\n\nmoves a liquid.",
    # tracking/records.py
    "loss/train and eval",
    # tracking/trackers.py
    "wandb sync {}",
    "swanlab sync{}{} {}",
    "--host {}",
    # studio/: summaries of routes, a policy, a command
    "Ask a run to stop.",
    "Ask an act to stop.",
    "Change or write a recipe.",
    "Write a changed copy of a recipe.",
    "Count what an evaluation would ask, and its time.",
    "Draw a run's charts as a part of a page.",
    "Find rows of an evaluation.",
    "Keep a decision about a doubtful row.",
    "Keep a file of rows in the folder.",
    "List acts, the newest first.",
    "List every fault of rows, with its policies.",
    "List models, and which of them a card trains.",
    "List raw rows of a file, or those that contain a text.",
    "List runs, page by page.",
    "Read what an act printed, from a byte on.",
    "Return the address of a page that compares runs.",
    "Return the address that shows a page.",
    "Show a page of the folder.",
    "Show a recipe's text and settings.",
    "Show a row of an evaluation.",
    "Show a run as it is now.",
    "Show a run's model and its exports.",
    "Show a run's replies as it learns.",
    "Show how an act is doing.",
    "Show one raw row, whole.",
    "Show rows of a recipe token by token.",
    "Show the doubtful rows that were found.",
    "Show the figures of a run's evaluations.",
    "Show the line of a verb.",
    "Show what a run serves, and what was said about its replies.",
    "Show what a teacher was asked for a recipe.",
    "Show what check last said about a recipe.",
    "Show what the folder holds and what runs in it.",
    "Show where each screen leads for a recipe or a run.",
    "Start a verb in a process of its own.",
    "Stream a run's facts as they change.",
    "Translate sentences of ours into Chinese.",
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads",
    "cd {} && ollama create {} -f Modelfile && ollama run {}",
}
