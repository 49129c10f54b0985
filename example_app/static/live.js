// The page fetches itself whenever the server says that there is something new, and renews the parts
// marked data-live. Without this script it is a page to reload.

const PAUSE_BETWEEN = 400; // milliseconds
const connection = document.getElementById("connection");
const pause = document.getElementById("pause");
const written = new WeakMap(); // what the server wrote for an element that is on the page
let stream = null;
let fetching = false;
let outdated = false;
let paused = false;
let latest = 0; // of the requests for the page

function say(state) {
  connection.dataset.state = state;
  connection.textContent = connection.dataset[`${state}Text`];
}

function controls(element) {
  return [element, ...element.querySelectorAll("a, button, summary")];
}

function renew(part, fresh) {
  const known = new Map([...part.children].map((child) => [child.id, child]));
  const active = document.activeElement;
  const hadFocus = part.contains(active);
  let focus = null;
  const wanted = [...fresh.childNodes].map((child) => {
    if (child.nodeType !== Node.ELEMENT_NODE) return child;
    const text = child.outerHTML;
    const old = child.id && known.get(child.id);
    if (old && written.get(old) === text) return old;
    written.set(child, text);
    if (!old) return child;
    for (const opened of old.querySelectorAll("details[open]")) {
      child.querySelector(`#${CSS.escape(opened.id)}`)?.setAttribute("open", "");
    }
    if (old.matches("details[open]")) child.setAttribute("open", "");
    if (old.contains(active) && !active.id) focus = controls(child)[controls(old).indexOf(active)];
    return child;
  });
  for (const old of [...part.childNodes]) if (!wanted.includes(old)) old.remove();
  // What stays is not moved: that would take the focus from it.
  wanted.forEach((node, place) => {
    if (part.childNodes[place] !== node) part.insertBefore(node, part.childNodes[place] ?? null);
  });
  if (hadFocus && !part.contains(document.activeElement)) {
    // Where it was, or at the heading above: not at the beginning of the page.
    if (active.id) focus = document.getElementById(active.id);
    (focus ?? part.closest("section")?.querySelector("[tabindex]"))?.focus({ preventScroll: true });
  }
}

function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    if (fresh && written.get(part) !== fresh.innerHTML) {
      written.set(part, fresh.innerHTML);
      renew(part, fresh);
    }
  }
}

// What an action led to stays until the next one.
function tell(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  document.getElementById("notices").replaceChildren(...page.getElementById("notices").children);
}

async function refresh() {
  if (fetching) {
    outdated = true;
    return;
  }
  fetching = true;
  do {
    outdated = false;
    try {
      const number = ++latest;
      const response = await fetch(location.href, { signal: AbortSignal.timeout(10_000) });
      if (!response.ok) throw new Error(response.statusText);
      const html = await response.text();
      // A button's answer may have been quicker.
      if (number === latest) show(html);
    } catch {
      // If the server is away, the stream says so, and calls again when it is back.
      outdated = stream?.readyState === EventSource.OPEN;
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_BETWEEN));
  } while (outdated && !paused);
  fetching = false;
}

function connect() {
  disconnect();
  if (document.hidden) return;
  const mine = (stream = new EventSource(document.body.dataset.events));
  mine.addEventListener("open", () => say("live"));
  mine.addEventListener("change", refresh);
  mine.addEventListener("error", () => {
    say("lost");
    // A browser gives up when the answer is an error.
    if (mine.readyState === EventSource.CLOSED) {
      setTimeout(() => mine === stream && connect(), 2000);
    }
  });
}

function disconnect() {
  stream?.close();
  stream = null;
}

function setPaused(value) {
  paused = value;
  pause.textContent = paused ? pause.dataset.resumeText : pause.dataset.pauseText;
  if (paused) {
    disconnect();
    latest++; // what is under way comes too late
    say("paused");
  } else {
    connect();
  }
}

pause.hidden = false;
pause.addEventListener("click", () => setPaused(!paused));

// A tab that nobody sees holds no connection: a browser has only a few for each server.
document.addEventListener("visibilitychange", () => {
  if (paused) return;
  if (document.hidden) disconnect();
  else connect();
});

// Buttons act where they are, so that filters and the place on the page stay.
document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  event.preventDefault();
  const body = new URLSearchParams(new FormData(form, event.submitter));
  try {
    const response = await fetch(form.action, { method: "POST", body });
    if (!response.ok) throw new Error(response.statusText);
    const html = await response.text();
    latest++;
    show(html);
    tell(html);
  } catch {
    say("lost");
  }
});

for (const part of document.querySelectorAll("[data-live]")) {
  written.set(part, part.innerHTML);
  for (const child of part.children) written.set(child, child.outerHTML);
}
setPaused(false);
