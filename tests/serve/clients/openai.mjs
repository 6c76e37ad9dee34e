// OpenAI's client for node, fed to `node --input-type=module` in a folder that has `openai` and `zod`.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.env.ADDRESS}/v1`, apiKey: "none", maxRetries: 0 });
const model = "tuned";
const messages = [{ role: "user", content: "heart?" }];
const next = { role: "user", content: "lung?" };
const prompt = "<|im_start|>user\nheart?<|im_end|>\n<|im_start|>assistant\n";
const Verdict = z.object({ sure: z.boolean(), grade: z.enum(["low", "high"]) });
const tools = [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: {} } } }];
const refusal = (call) => call().then((found) => `answered: ${JSON.stringify(found)}`, (error) => error.message);

const chat = client.chat.completions;
const first = (await chat.create({ model, messages })).choices[0].message;
const joined = await client.chat.completions.stream({ model, messages }).finalMessage();
let [streamed, streamedReasoning] = ["", ""];
for await (const chunk of await chat.create({ model, messages, stream: true })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  streamedReasoning += chunk.choices[0]?.delta.reasoning_content ?? "";
}
const second = (await chat.create({ model, messages: [...messages, first, next] })).choices[0].message;
const response = await client.responses.create({ model, input: "heart?" });
const streamedResponse = await client.responses.stream({ model, input: "heart?" }).finalResponse();
const later = await client.responses.create({ model, input: [...messages, ...response.output, next] });
const parsed = await chat.parse({ model, messages, response_format: zodResponseFormat(Verdict, "verdict") });
const parsedResponse = await client.responses.parse({
  model, input: "heart?", text: { format: zodTextFormat(Verdict, "verdict") },
});
let raw = "";
for await (const chunk of await client.completions.create({ model, prompt, stream: true })) raw += chunk.choices[0].text;

console.log(JSON.stringify({
  reasoning: first.reasoning_content,
  answer: first.content,
  "streamed reasoning": streamedReasoning,
  streamed,
  accumulated: joined.content,
  second: second.content,
  response: [response.output[0].content[0].text, response.output_text],
  "streamed response": [streamedResponse.output[0].content[0].text, streamedResponse.output_text],
  "second response": later.output_text,
  structured: [parsed.choices[0].message.parsed, parsedResponse.output_parsed].map((one) => Verdict.safeParse(one).success),
  raw: (await client.completions.create({ model, prompt })).choices[0].text,
  "streamed raw": raw,
  models: (await client.models.list()).data.map((one) => one.id),
  tools: await refusal(() => chat.create({ model, messages, tools })),
}));
