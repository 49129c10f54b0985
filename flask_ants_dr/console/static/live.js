// The page fetches itself whenever the server says that there is something new, and renews the
// parts marked data-live. Without this script it is a page to reload.

const PAUSE_BETWEEN = 1000; // milliseconds
const POLL = 10_000;
const connection = document.getElementById("connection");
const pause = document.getElementById("pause");
const written = new WeakMap(); // what the server wrote for an element that is on the page
const events = new URL(document.body.dataset.events, location).href;
let port = null;
let poll = null;
let fetching = false;
let outdated = false;
let paused = false;

function say(state) {
  if (connection.dataset.state === state) return;
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
    if (old.matches("details[open]")) child.setAttribute("open", "");
    if (old.contains(active) && !active.id) focus = controls(child)[controls(old).indexOf(active)];
    return child;
  });
  for (const opened of part.querySelectorAll("details[open]")) {
    for (const node of wanted) {
      node.querySelector?.(`#${CSS.escape(opened.id)}`)?.setAttribute("open", "");
    }
  }
  if (hadFocus && !active.id) focus ??= controls(part).indexOf(active);
  for (const old of [...part.childNodes]) if (!wanted.includes(old)) old.remove();
  // What stays is not moved: that would take the focus from it.
  wanted.forEach((node, place) => {
    if (part.childNodes[place] !== node) part.insertBefore(node, part.childNodes[place] ?? null);
  });
  if (hadFocus && !part.contains(document.activeElement)) {
    // Where it was, or at the heading above: not at the beginning of the page.
    if (active.id) focus = document.getElementById(active.id);
    if (typeof focus === "number") focus = controls(part)[focus];
    (focus ?? part.closest("section")?.querySelector("[tabindex]"))?.focus({ preventScroll: true });
  }
}

function show(html) {
  const page = new DOMParser().parseFromString(html, "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    // What somebody is about to do stays as it is: a form that is open, or typed into.
    if (part.querySelector("form details[open], form :focus")) continue;
    if (fresh && written.get(part) !== fresh.innerHTML) {
      written.set(part, fresh.innerHTML);
      renew(part, fresh);
    }
  }
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
      const response = await fetch(location.href, { signal: AbortSignal.timeout(10_000) });
      // The host asks for a login again, or lets nobody in any more.
      if (response.redirected || response.status === 401 || response.status === 403) {
        location.reload();
        return;
      }
      if (!response.ok) throw new Error(response.statusText);
      const html = await response.text();
      if (!paused) show(html);
      if (poll) say("polling");
    } catch {
      say("lost");
    }
    await new Promise((resolve) => setTimeout(resolve, PAUSE_BETWEEN));
  } while (outdated && !paused);
  fetching = false;
}

function heard(state) {
  if (paused || document.hidden) return;
  if (state === "change") {
    refresh();
    return;
  }
  say(state);
  clearInterval(poll);
  poll = state === "polling" ? setInterval(refresh, POLL) : null;
}

// Where the browser has no shared worker, each tab has a connection of its own.
class Own {
  postMessage(message) {
    this.source?.close();
    if (message === "leave") return;
    const source = (this.source = new EventSource(message));
    source.addEventListener("open", () => heard("live"));
    source.addEventListener("change", () => heard("change"));
    source.addEventListener("error", () =>
      heard(source.readyState === EventSource.CLOSED ? "polling" : "lost"),
    );
  }
}

function open() {
  try {
    const { port } = new SharedWorker(document.body.dataset.worker, "ants-dr-console");
    port.onmessage = ({ data }) => heard(data);
    return port;
  } catch {
    return new Own();
  }
}

function watch() {
  port ??= open();
  port.postMessage(events);
}

function leave() {
  clearInterval(poll);
  poll = null;
  port?.postMessage("leave");
}

// What a form has led to is not what its address shows: it stays as it is.
if (document.querySelector("main [data-live]")) {
  for (const part of document.querySelectorAll("[data-live]")) {
    written.set(part, part.innerHTML);
    for (const child of part.children) written.set(child, child.outerHTML);
  }
  pause.hidden = false;
  pause.textContent = pause.dataset.pauseText;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.textContent = paused ? pause.dataset.resumeText : pause.dataset.pauseText;
    if (paused) {
      leave();
      say("paused");
    } else {
      watch();
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (paused) return;
    if (document.hidden) leave();
    else watch();
  });
  addEventListener("pagehide", leave);
  addEventListener("pageshow", (event) => event.persisted && !paused && watch());
  watch();
}

// A notice is of the moment: neither a reload nor a bookmark is to show it again.
const address = new URL(location);
if (address.searchParams.has("notice")) {
  for (const name of ["notice", "count", "of"]) address.searchParams.delete(name);
  history.replaceState(null, "", address);
}

// The chooser of the inbox needs no button where there is a script.
document.getElementById("source")?.addEventListener("change", ({ target }) => target.form.submit());
