// One connection for all tabs of a browser, which has only a few for each server. A tab says
// "watch" when it is seen, and "leave" when it is not; without a tab that is seen there is none.

const streams = new Map(); // by their addresses: an application can have several inboxes

function say(stream, state) {
  stream.state = state;
  for (const port of stream.ports) port.postMessage(state);
}

function connect(url, stream) {
  const source = (stream.source = new EventSource(url));
  source.addEventListener("open", () => say(stream, "live"));
  source.addEventListener("change", () => {
    for (const port of stream.ports) port.postMessage("change");
  });
  // A browser gives up where there is no stream for it: the server says so by 204.
  source.addEventListener("error", () =>
    say(stream, source.readyState === EventSource.CLOSED ? "polling" : "lost"),
  );
}

function watch(url, port) {
  let stream = streams.get(url);
  if (!stream) {
    stream = { ports: new Set(), source: null, state: "connecting" };
    streams.set(url, stream);
    connect(url, stream);
  } else if (stream.source.readyState === EventSource.CLOSED) {
    connect(url, stream);
  }
  stream.ports.add(port);
  port.postMessage(stream.state);
}

function leave(port) {
  for (const [url, stream] of streams) {
    if (stream.ports.delete(port) && stream.ports.size === 0) {
      stream.source.close();
      streams.delete(url);
    }
  }
}

function serve(port) {
  port.onmessage = ({ data }) => (data === "leave" ? leave(port) : watch(data, port));
}

addEventListener("connect", (event) => serve(event.ports[0]));
