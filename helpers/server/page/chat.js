// The chat page: one conversation with the server that the page is from, and the request for the same in code.
// Whatever comes from a model or a server is shown as text, never as HTML.

const find = (id) => document.getElementById(id);
const API = new URL("v1/", location.href); // relative to the page: a proxy may put a prefix before both
const SPOKEN = 80; // characters: a screen reader is given whole sentences, and not fewer at a time

let conversation = []; // of {role, content}; "New chat" replaces it
let running = null; // the AbortController of the answer that is being written
let models = []; // the base model's name, then those of the LoRAs
let needsKey = false;

/** What the user is told in the words of the server, or in ours where the server said nothing. */
class Refusal extends Error {}

// The server

/** The reply to a GET, or to a POST if there is a body; a Refusal if it is an error. */
async function call(path, body, signal) {
  const headers = new Headers();
  const key = find("key").value.trim();
  if (body) headers.set("Content-Type", "application/json");
  if (key) headers.set("Authorization", `Bearer ${key}`);
  const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal };
  const reply = await fetch(new URL(path, API), options).catch(lose);
  if (reply.ok) return reply;
  if (reply.status === 401) askForKey();
  const said = await reply.json().catch(() => null); // a proxy may answer with HTML
  throw new Refusal(said?.error?.message ?? `The server answered with HTTP ${reply.status} ${reply.statusText}.`);
}

/** The events of a streamed answer. Raises a Refusal for an error among them, and if the last is missing. */
async function* stream(body, signal) {
  const reply = await call("chat/completions", { ...body, stream: true }, signal);
  for await (const line of readLines(reply.body)) {
    if (!line.startsWith("data:")) continue;
    const data = line.slice(5).trim();
    if (data === "[DONE]") return;
    const event = JSON.parse(data);
    if (event.error) throw new Refusal(event.error.message);
    yield event;
  }
  throw new Refusal("The connection ended before the answer did.");
}

async function* readLines(bytes) {
  const reader = bytes.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read().catch(lose);
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    yield* lines;
  }
}

function lose(error) {
  throw new Refusal("There is no connection to the server. Is it still running?", { cause: error });
}

/** Fills the list of models; keeps what is chosen if it is still there. Without a choice the first LoRA is it. */
async function loadModels() {
  const ids = (await (await call("models")).json()).data.map((card) => card.id);
  if (ids.join("\n") === models.join("\n") && find("model").options.length) return;
  models = ids;
  const chosen = find("model").value;
  const [base, ...loras] = ids;
  const groups = base ? [makeGroup("Base model", [base])] : [new Option("no model is loaded", "")];
  if (loras.length) groups.push(makeGroup("LoRAs on it", loras));
  find("model").replaceChildren(...groups);
  find("model").value = ids.includes(chosen) ? chosen : (loras[0] ?? base ?? "");
  showCode();
}

function makeGroup(label, names) {
  const group = document.createElement("optgroup");
  group.label = label;
  group.append(...names.map((name) => new Option(name, name)));
  return group;
}

function askForKey() {
  needsKey = true;
  find("key-form").hidden = false;
  find("key").focus();
  showCode();
}

// The conversation

/** A request's body for these turns; a setting whose field is empty is not sent. */
function buildBody(turns) {
  const instruction = find("instruction").value;
  const system = instruction.trim() ? [{ role: "system", content: instruction }] : [];
  const body = { model: find("model").value || "any", messages: [...system, ...turns] };
  if (find("temperature").value) body.temperature = Number(find("temperature").value);
  if (find("length").value) body.max_tokens = Number(find("length").value);
  return body;
}

/** Sends the draft. Without an answer it becomes a draft again, so that it can be changed and sent again. */
async function send() {
  const question = find("draft").value;
  if (!question.trim() || running) return;
  const turns = conversation;
  const aborter = new AbortController();
  turns.push({ role: "user", content: question });
  const body = buildBody([...turns]);
  const asked = addMessage("You", question, "own");
  const answer = addMessage(body.model, "", "running");
  find("draft").value = "";
  begin(aborter);
  let problem = "";
  try {
    for await (const event of stream(body, aborter.signal)) answer.take(event);
    if (!answer.text) problem = "The model ended its answer before the first word.";
  } catch (error) {
    problem = aborter.signal.aborted ? "" : explain(error);
  }
  if (running === aborter) finish();
  if (turns !== conversation) return; // a new chat has begun
  answer.end(aborter.signal.aborted);
  if (answer.text) {
    turns.push({ role: "assistant", content: answer.text });
  } else {
    turns.pop();
    asked.remove();
    answer.remove();
    find("draft").value ||= question;
  }
  showError(problem);
  const gone = models.length && answer.name && answer.name !== body.model;
  if (problem || gone) loadModels().catch(() => {}); // what is wrong has been said
  showCode();
}

function begin(aborter) {
  running = aborter;
  find("error").textContent = "";
  find("spoken").replaceChildren();
  setRunning(true);
  find("status").textContent = "The model is answering.";
  showCode();
}

function finish() {
  running = null;
  if (document.activeElement === find("stop")) find("draft").focus(); // the button is about to go
  setRunning(false);
  find("status").textContent = "";
}

function setRunning(on) {
  find("send").hidden = on;
  find("stop").hidden = !on;
}

function explain(error) {
  return error instanceof Refusal ? error.message : `The page failed: ${error.message}`;
}

function showError(words) {
  find("error").textContent = words;
  if (words) find("error").scrollIntoView({ block: "nearest", behavior: "instant" });
}

function startChat() {
  running?.abort();
  if (running) finish();
  conversation = [];
  for (const id of ["messages", "error", "spoken"]) find(id).replaceChildren();
  find("status").textContent = "A new chat.";
  find("draft").focus();
  showCode();
}

/** A message on the page, which grows while it is written. */
class Message {
  text = "";
  name = ""; // of the model that answers
  #reason = null;
  #spoken = 0; // characters that a screen reader has been given

  constructor(who, text, kind) {
    this.item = addTo(find("messages"), "li", "", kind);
    this.title = addTo(this.item, "h2", who);
    this.shown = addTo(this.item, "div", text, "text");
    this.shown.dir = "auto";
    this.asked = who;
  }

  /** Takes an event of the stream. */
  take(event) {
    this.name = event.model;
    this.title.textContent = event.model;
    const choice = event.choices[0];
    const piece = choice?.delta?.content ?? "";
    this.text += piece;
    this.#reason = choice?.finish_reason ?? this.#reason;
    follow(() => this.shown.append(piece));
    this.#speak(/^.*([.!?:](?=\s)|[。！？\n])/s.exec(this.text.slice(this.#spoken))?.[0] ?? "", SPOKEN);
  }

  /** The last things to say about the answer. */
  end(stopped) {
    this.item.classList.remove("running");
    this.#speak(this.text.slice(this.#spoken), 1);
    if (stopped) this.#note("Stopped.");
    if (this.#reason === "length") this.#note("Cut off here: the answer or the context is at its limit, or the server is ending.");
    if (this.name && models.includes(this.asked) && this.name !== this.asked)
      this.#note(`The server no longer has ${this.asked}; ${this.name} answered.`);
  }

  remove() {
    this.item.remove();
  }

  #note(words) {
    follow(() => addTo(this.item, "p", words, "note"));
    addTo(find("spoken"), "p", words);
  }

  #speak(words, fewest) {
    if (words.length < fewest) return;
    this.#spoken += words.length;
    addTo(find("spoken"), "p", words);
  }
}

function addMessage(who, text, kind) {
  let message;
  follow(() => (message = new Message(who, text, kind)), kind === "own");
  return message;
}

function addTo(parent, tag, text, kind = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  made.className = kind;
  parent.append(made);
  return made;
}

/** Makes a change, and scrolls so that its end is seen if the end was seen before. */
function follow(change, always = false) {
  const hidden = () => find("messages").getBoundingClientRect().bottom - find("composer").getBoundingClientRect().top;
  const seen = always || hidden() < 40;
  change();
  if (seen && hidden() > 0) scrollBy({ top: hidden(), behavior: "instant" });
}

// The request in code

/** The next request, or the last one if nothing is typed. */
function showCode() {
  const draft = find("draft").value;
  const last = conversation.findLastIndex((turn) => turn.role === "user");
  let turns = conversation.slice(0, last + 1);
  if (draft.trim() && !running) turns = [...conversation, { role: "user", content: draft }];
  if (!turns.length) turns = [{ role: "user", content: "Your message" }];
  const body = buildBody(turns);
  find("curl").textContent = writeCurl(body);
  find("python").textContent = writePython(body);
  find("key-note").hidden = !needsKey;
}

function writeCurl(body) {
  const lines = [`curl ${quote(new URL("chat/completions", API).href)}`, `-H 'Content-Type: application/json'`];
  if (needsKey) lines.push(`-H "Authorization: Bearer $OPENAI_API_KEY"`);
  return [...lines, `-d ${quote(JSON.stringify(body, null, 2))}`].join(" \\\n  ");
}

/** One argument for a shell, in which nothing between single quotes has a meaning. */
function quote(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** JSON's texts and numbers are Python's, too. */
function writePython(body) {
  const key = needsKey ? "" : '    api_key="none",\n';
  const messages = body.messages.map(
    ({ role, content }) => `        {"role": "${role}", "content": ${JSON.stringify(content)}},\n`,
  );
  const settings = Object.entries(body)
    .filter(([name]) => name !== "model" && name !== "messages")
    .map(([name, value]) => `    ${name}=${JSON.stringify(value)},\n`);
  return `from openai import OpenAI

client = OpenAI(
    base_url=${JSON.stringify(API.href.slice(0, -1))},
${key})
reply = client.chat.completions.create(
    model=${JSON.stringify(body.model)},
    messages=[
${messages.join("")}    ],
${settings.join("")})
print(reply.choices[0].message.content)
`;
}

async function copy(button) {
  const code = find(button.dataset.copy);
  let done = "Copied";
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch { // a browser may refuse, as it does over plain HTTP from another machine
    getSelection().selectAllChildren(code);
    done = "Selected: press Control+C";
  }
  find("status").textContent = done;
  button.firstChild.data = done;
  setTimeout(() => (button.firstChild.data = "Copy"), 3000);
}

// What the user does

find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
find("draft").addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
find("stop").addEventListener("click", () => running?.abort());
find("new").addEventListener("click", startChat);
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});
for (const button of document.querySelectorAll("[data-copy]"))
  button.addEventListener("click", () => copy(button));
for (const id of ["draft", "model", "temperature", "length", "instruction"])
  find(id).addEventListener("input", showCode);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) loadModels().catch(() => {});
});

/** Asks for the models, at the start and with a new key. */
async function connect() {
  find("error").textContent = "";
  try {
    await loadModels();
    find("draft").focus();
  } catch (error) {
    showError(explain(error));
  }
}

find("request").open = matchMedia("(min-width: 60rem)").matches;
showCode();
connect();
