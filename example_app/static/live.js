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

function say(state) {
  connection.dataset.state = state;
  connection.textContent = connection.dataset[`${state}Text`];
}

function renew(part, fresh) {
  const known = new Map([...part.children].map((child) => [child.id, child]));
  const focused = document.activeElement?.id;
  const children = [...fresh.childNodes].map((child) => {
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
    return child;
  });
  const hadFocus = part.contains(document.activeElement);
  part.replaceChildren(...children);
  if (hadFocus && !part.contains(document.activeElement)) {
    // Where it was, or at the heading above: not at the beginning of the page.
    const heading = part.closest("section")?.querySelector("[tabindex]");
    const again = focused ? document.getElementById(focused) : null;
    (again ?? heading)?.focus({ preventScroll: true });
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
      const response = await fetch(location.href);
      if (response.ok) show(await response.text());
    } catch {
      // The server is away; the stream says so, and calls again when it is back.
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_BETWEEN));
  } while (outdated);
  fetching = false;
}

function connect() {
  stream?.close();
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
    show(html);
    tell(html);
  } catch {
    say("lost");
  }
});

setPaused(false);
