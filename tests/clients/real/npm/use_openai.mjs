// openai (npm): chat, stream, a tool that the client runs, objects; the same over responses.

import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodFunction, zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { ASK, GREET, KEY, LIMIT, MODEL, Place, URL, Weather, assertCalled, getWeather } from "./scene.mjs";

const client = new OpenAI({ baseURL: URL, apiKey: KEY, maxRetries: 0, timeout: 300_000 });
const settings = { model: MODEL, temperature: 0, max_tokens: LIMIT };

async function chat() {
  const asked = { ...settings, messages: [{ role: "user", content: GREET }] };
  const whole = await client.chat.completions.create(asked);
  let text = "";
  for await (const event of await client.chat.completions.create({ ...asked, stream: true })) {
    text += event.choices[0]?.delta.content ?? "";
  }
  assert.ok(text);
  assert.equal(text, whole.choices[0].message.content);
}

async function chatWithATool() {
  const messages = [{ role: "user", content: ASK }];
  const tool = zodFunction({ name: "get_weather", parameters: Place, function: getWeather });
  const choice = { type: "function", function: { name: "get_weather" } };
  // runTools asks for no second answer after a call that was forced.
  const runner = client.chat.completions.runTools({ ...settings, messages, tools: [tool], tool_choice: choice });
  await runner.done();
  assertCalled();
  assert.deepEqual(runner.messages.map((message) => message.role), ["user", "assistant", "tool"]);
  const last = await client.chat.completions.create({ ...settings, messages: runner.messages, tools: [tool] });
  assert.equal(last.choices[0].message.role, "assistant");
}

async function chatWithAnObject() {
  const messages = [{ role: "user", content: ASK }];
  const asked = { ...settings, messages, response_format: zodResponseFormat(Weather, "weather") };
  const parsed = await client.chat.completions.parse(asked);
  Weather.parse(parsed.choices[0].message.parsed);
}

async function responses() {
  const asked = { model: MODEL, temperature: 0, max_output_tokens: LIMIT, input: GREET };
  const whole = await client.responses.create(asked);
  const streamed = await client.responses.stream(asked).finalResponse();
  assert.ok(whole.output_text);
  assert.equal(streamed.output[0].content[0].text, whole.output_text);
  const parsed = await client.responses.parse({ ...asked, input: ASK, text: { format: zodTextFormat(Weather, "weather") } });
  Weather.parse(parsed.output_parsed);
}

await chat();
await chatWithATool();
await chatWithAnObject();
await responses();
