// Vercel's AI SDK: a chat of three turns with reasoning items, then a tool loop.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({ apiKey: "sk-test", baseURL: process.env.BASE_URL });
const model = openai.responses("gpt-5.2");
const providerOptions = { openai: { store: process.env.STORE === "true", include: ["reasoning.encrypted_content"] } };

const messages = [];
const answers = [];
for (const content of ["one", "two", "three"]) {
  messages.push({ role: "user", content });
  const result = streamText({ model, messages, providerOptions });
  answers.push(await result.text);
  messages.push(...(await result.response).messages);
}
const weather = tool({
  description: "The weather of a city.", inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => (city === "Paris" ? "sunny" : "rain"),
});
const { text } = await generateText({
  model, prompt: "Is it nice in Paris?", tools: { weather }, stopWhen: stepCountIs(5), providerOptions,
});
console.log(JSON.stringify([...answers, text]));
