// An agent of Vercel's AI SDK: a tool loop that streams.
import { createOpenAI } from "@ai-sdk/openai";
import { readFileSync } from "node:fs";
import { stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ apiKey: process.env.OPENAI_API_KEY, baseURL: process.env.BASE_URL });
const read = tool({
  description: "Read a part.", inputSchema: z.object({ part: z.number() }),
  execute: async ({ part }) => readFileSync(`${process.env.FOLDER}/part-${part}.txt`, "utf8"),
});
const result = streamText({
  model: openai.responses("gpt-5.2"), prompt: "Read all parts.", tools: { read }, stopWhen: stepCountIs(100),
  providerOptions: { openai: { store: false } },
});
let text = "";
for await (const piece of result.textStream) text += piece;
console.log(JSON.stringify(text));
