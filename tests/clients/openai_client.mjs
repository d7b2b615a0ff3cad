// OpenAI's npm package against a server: prints what it got as JSON. Arguments: the address, and where the package is.
import { createRequire } from "node:module";

const [, , baseURL, folder] = process.argv;
const OpenAI = createRequire(`${folder}/`)("openai").OpenAI;
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: [{ type: "text", text: "Was it good?" }] }];
const asked = { model: "tiny:cbs-2-3-4", seed: 5, max_tokens: 12 };

const found = {};
found.models = (await client.models.list()).data.map((model) => model.id);
const whole = await client.chat.completions.create({ ...asked, messages });
found.chat = whole.choices[0].message.content;
found.usage = whole.usage.completion_tokens;
found.seed = whole.trimtab.seed;
found.streamed = "";
const stream = await client.chat.completions.create({ ...asked, messages, stream: true });
for await (const chunk of stream) found.streamed += chunk.choices[0].delta.content ?? "";
found.completion = (await client.completions.create({ ...asked, prompt: "I really" })).choices[0].text;
try {
  await client.chat.completions.create({ ...asked, messages, response_format: { type: "json_object" } });
} catch (error) {
  found.refused = [error.status, error.param];
}
console.log(JSON.stringify(found));
