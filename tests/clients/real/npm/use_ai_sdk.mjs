// AI SDK: text, a stream, two turns, objects and a tool, by @ai-sdk/openai (responses and chats) and @ai-sdk/openai-compatible.

import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateObject, generateText, stepCountIs, streamObject, streamText, tool } from "ai";
import { ASK, GREET, KEY, LIMIT, MODEL, Place, URL, Weather, assertCalled, getWeather } from "./scene.mjs";

const openai = createOpenAI({ baseURL: URL, apiKey: KEY });
const compatible = createOpenAICompatible({
  name: "kit",
  baseURL: URL,
  apiKey: KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});

function rethrow({ error }) {
  throw error;
}

async function work(model) {
  const settings = { model, temperature: 0, maxOutputTokens: LIMIT, maxRetries: 0 };
  const whole = await generateText({ ...settings, system: "Be brief.", prompt: GREET });
  const stream = streamText({ ...settings, system: "Be brief.", prompt: GREET, onError: rethrow });
  assert.ok(whole.text);
  assert.equal(await stream.text, whole.text);
  assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens);

  const messages = [
    { role: "user", content: GREET },
    ...whole.response.messages,
    { role: "user", content: "Say goodbye." },
  ];
  // Over responses, the provider sends only the ids of earlier answers, unless it is told that none is kept.
  assert.ok((await generateText({ ...settings, messages, providerOptions: { openai: { store: false } } })).text);

  const asked = { ...settings, prompt: ASK };
  Weather.parse((await generateObject({ ...asked, schema: Weather })).object);
  const objects = streamObject({ ...asked, schema: Weather, onError: rethrow });
  for await (const part of objects.partialObjectStream) assert.ok(part);
  Weather.parse(await objects.object);
  Weather.parse((await generateText({ ...asked, output: Output.object({ schema: Weather }) })).output);

  const calling = {
    ...asked,
    tools: { get_weather: tool({ description: "Get the weather.", inputSchema: Place, execute: getWeather }) },
    prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? "required" : "auto" }),
    stopWhen: stepCountIs(2),
  };
  const steps = await generateText(calling);
  assertCalled();
  assert.equal(steps.steps.length, 2);
  const streamed = streamText({ ...calling, onError: rethrow });
  assert.equal((await streamed.steps).length, 2);
  assertCalled();
}

for (const model of [openai(MODEL), openai.chat(MODEL), compatible(MODEL)]) {
  await work(model);
}
