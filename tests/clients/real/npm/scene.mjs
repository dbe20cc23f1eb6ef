// What every client is asked to do: node SCRIPT URL MODEL.

import assert from "node:assert/strict";
import { z } from "zod";

export const [URL, MODEL] = process.argv.slice(2);
export const KEY = "none";
export const LIMIT = 60; // tokens of an answer
export const GREET = "Say hello.";
export const ASK = "What is the weather in Oslo?";

const city = z.enum(["Oslo", "Rome"]);
export const Place = z.object({ city });
export const Weather = z.object({ city, degrees: z.number().int(), sunny: z.boolean() });
const asked = []; // what getWeather was called with

export function getWeather({ city }) {
  asked.push(city);
  return `It is sunny in ${city}.`;
}

// Asserts that getWeather was called since the last time, with arguments of its form.
export function assertCalled() {
  const calls = asked.splice(0);
  assert.ok(calls.length > 0);
  calls.forEach((city) => Place.parse({ city }));
}
