// The AI SDK, fed to `node --input-type=module` in a folder that has `ai`, its two providers, and `zod`.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = `${process.env.ADDRESS}/v1`;
const openai = createOpenAI({ baseURL, apiKey: "none" });
const compatible = createOpenAICompatible({ name: "mine", baseURL, supportsStructuredOutputs: true });
const schema = z.object({ sure: z.boolean(), grade: z.enum(["low", "high"]) });
const messages = [{ role: "user", content: "heart?" }];
const next = { role: "user", content: "lung?" };
const prompt = "<|im_start|>user\nheart?<|im_end|>\n<|im_start|>assistant\n";
const tools = { weather: tool({ description: "Weather", inputSchema: z.object({ town: z.string() }) }) };
const refusal = (call) => call().then((found) => `answered: ${found.text}`, (error) => error.message);

async function ask(model) {
  const asked = { model, maxRetries: 0 };
  const first = await generateText({ ...asked, messages });
  const streamed = streamText({ ...asked, messages });
  let text = "";
  for await (const delta of streamed.textStream) text += delta;
  const second = await generateText({ ...asked, messages: [...messages, ...first.response.messages, next] });
  const formed = await generateObject({ ...asked, messages, schema });
  return {
    reasoning: first.reasoningText ?? null,
    answer: first.text,
    "streamed reasoning": (await streamed.reasoningText) ?? null,
    streamed: text,
    second: second.text,
    structured: schema.safeParse(formed.object).success,
    tools: await refusal(() => generateText({ ...asked, messages, tools })),
  };
}

console.log(JSON.stringify({
  "openai (responses)": await ask(openai("tuned")),
  "openai.chat": await ask(openai.chat("tuned")),
  "openai-compatible": await ask(compatible("tuned")),
  raw: (await generateText({ model: openai.completion("tuned"), prompt: "heart?", maxRetries: 0 })).text !== "",
  effort: (await generateText({
    model: compatible("tuned"), messages, maxRetries: 0, providerOptions: { mine: { reasoningEffort: "medium" } },
  })).text,
}));
