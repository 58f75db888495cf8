// Live numbers: the server sends ready-made texts once a second, this puts them in their places. Pages work without it.
"use strict";
(() => {
  const root = document.querySelector("[data-events]");
  if (!root || !window.EventSource) return;
  const badge = document.getElementById("live");
  const said = document.getElementById("said");
  let lastSaid = 0;

  const show = (values) => {
    for (const element of document.querySelectorAll("[data-live]")) {
      const value = values[element.dataset.live];
      if (value !== undefined && element.textContent !== value) element.textContent = value;
    }
    // data-live-attr="points:spark" takes the attribute `points` from the value `spark`.
    for (const element of document.querySelectorAll("[data-live-attr]")) {
      for (const pair of element.dataset.liveAttr.split(" ")) {
        const [attribute, key] = pair.split(":");
        if (values[key] !== undefined) element.setAttribute(attribute, values[key]);
      }
    }
    // Screen readers hear a sentence now and then, not every number every second.
    if (said && values.said && Date.now() - lastSaid > 20000) {
      said.textContent = values.said;
      lastSaid = Date.now();
    }
    // Another state has other controls: the server draws them. Never under somebody's hands, and never in a hurry.
    const expected = root.dataset.state;
    const changed = expected !== undefined && values.state !== undefined && values.state !== expected;
    if (changed && performance.now() > 3000 && !document.querySelector("details.confirm[open]")) location.reload();
  };

  const connected = (on) => {
    if (!badge) return;
    badge.hidden = false;
    badge.classList.toggle("off", !on);
    badge.textContent = on ? "Live" : "Reconnecting…";
  };

  let source = null;
  const open = () => {
    source = new EventSource(root.dataset.events);
    source.addEventListener("open", () => connected(true));
    source.addEventListener("error", () => connected(false));
    source.addEventListener("sample", (event) => show(JSON.parse(event.data)));
  };
  // A hidden tab needs no stream.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      source?.close();
      source = null;
    } else if (!source) {
      open();
    }
  });
  if (!document.hidden) open();
})();
