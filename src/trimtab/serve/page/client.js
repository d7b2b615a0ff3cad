// Talks to the server as any client of OpenAI's protocol does.

const STORED = "trimtab-key"; // of this tab alone
let key = sessionStorage.getItem(STORED) ?? "";

/** Send this key from now on. */
export function useKey(entered) {
  key = entered;
  sessionStorage.setItem(STORED, entered);
}

/** What the server refuses, or why an answer ended early. `status`: of HTTP, 0 where there was no answer. */
export class Refusal extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The models, each a decoder, and what holds for all of them. */
export const models = async () => (await asked("v1/models")).json();

/** One model, of the list or not. */
export const model = async (name) => {
  const path = name.split("/").map(encodeURIComponent).join("/");
  return (await asked(`v1/models/${path}`)).json();
};

/** The events of a streamed answer, as they come. */
export async function* events(route, body, signal) {
  const headers = { "Content-Type": "application/json" };
  const answer = await asked(route, { method: "POST", headers, body: JSON.stringify(body), signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => ({ done: true }));
    if (signal.aborted) throw new DOMException("stopped", "AbortError");
    if (done) throw new Refusal("the connection ended before the answer did");
    const lines = (text + value).split(/\r?\n/);
    text = lines.pop();
    for (const line of lines.filter((each) => each.startsWith("data: "))) {
      if (line === "data: [DONE]") return;
      const event = JSON.parse(line.slice(6));
      if (event.error) throw new Refusal(event.error.message, 500);
      yield event;
    }
  }
}

async function asked(route, request = {}) {
  const headers = { ...request.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  let answer;
  try {
    answer = await fetch(route, { ...request, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("the server does not answer");
  }
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const body = await answer.json().catch(() => ({}));
  const words = body.error?.message ?? `the server answered with status ${answer.status}`;
  const seconds = answer.headers.get("Retry-After");
  return new Refusal(seconds ? `${words}. Write again in ${seconds} s.` : words, answer.status);
}
