// OpenAI's agents for JavaScript: a run with a tool, plain and streamed; over WebSocket if asked for.
import { Agent, OpenAIProvider, Runner, setTracingDisabled, tool } from "@openai/agents";
import { z } from "zod";

setTracingDisabled(true);
const weather = tool({
  name: "weather", description: "The weather of a city.",
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => (city === "Paris" ? "sunny" : "rain"),
});
const provider = new OpenAIProvider({
  apiKey: "sk-test", baseURL: process.env.BASE_URL, useResponses: true,
  useResponsesWebSocket: process.env.TRANSPORT === "websocket",
});
const runner = new Runner({ modelProvider: provider });
const agent = new Agent({ name: "agent", instructions: "Be brief.", model: "gpt-5.2", tools: [weather] });

const plain = await runner.run(agent, "Is it nice in Paris?");
const streamed = await runner.run(agent, "Is it nice in Paris, streamed?", { stream: true });
for await (const _ of streamed) { /* to its end */ }
await streamed.completed;
console.log(JSON.stringify([plain.finalOutput, streamed.finalOutput]));
await provider.close?.();
process.exit(0);
