// A page of what is booked now follows it: a small question every few seconds, the page again when the answer changed.
// Without this script the page is complete; it stands still while nobody looks, and when it is told to.
"use strict";
(function () {
  const main = document.querySelector("main[data-live]");
  const place = document.getElementById("live");
  if (!main || !place) return;
  const every = Number(main.dataset.live);
  const slowest = 60000;
  const calm = 30000;
  const shown = document.createElement("span");
  const button = document.createElement("button");
  const told = document.createElement("span");
  told.className = "hidden";
  told.setAttribute("role", "status");
  button.type = "button";
  place.append(shown, button, told);
  place.hidden = false;

  let paused = sessionStorage.getItem("farthing-live") === "off";
  let wait = every;
  let timer = null;
  let mark = "";
  let saidAt = 0;
  let before = [];
  let sinceNews = 99;
  const lookAgain = [2, 8];  // answers about today are remembered for some seconds: the page is asked for twice more

  function label(text) {
    button.textContent = paused ? "Resume" : "Pause";
    button.setAttribute("aria-label", paused ? "Follow new calls again" : "Stop following new calls");
    shown.textContent = paused ? "Stands still" : text || "Live";
    place.classList.toggle("on", !paused);
  }

  const blocks = (root) => Array.from(root.children).filter((one) => !one.matches(".head, .filters"));

  // What a visitor has opened, and how far a table was moved, stays.
  function swap(old, fresh) {
    const open = Array.from(old.querySelectorAll("details")).map((one) => one.open);
    const moved = Array.from(old.querySelectorAll(".scroll")).map((one) => one.scrollLeft);
    old.replaceWith(fresh);
    return function () {
      fresh.querySelectorAll("details").forEach(function (one, at) {
        if (at < open.length) one.open = open[at];
        one.dataset.seen = "1";
      });
      fresh.querySelectorAll(".scroll").forEach(function (one, at) { one.scrollLeft = moved[at] || 0; });
    };
  }

  async function renew() {
    const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin" });
    if (!answer.ok || answer.redirected) return false;
    // Its style elements carry another page's nonce; they are empty and not needed.
    const text = (await answer.text()).replace(/<style[^>]*><\/style>/g, "");
    const root = new DOMParser().parseFromString(text, "text/html").querySelector("main");
    const now = blocks(main);
    const next = root ? blocks(root) : [];
    const inUse = (one) => one.contains(document.activeElement);
    const raw = next.map((one) => one.outerHTML);
    const after = [];
    if (now.length === next.length) {
      next.forEach(function (one, at) {
        if (before[at] === raw[at]) return;
        if (inUse(now[at])) raw[at] = "";  // whoever is in it is not disturbed; it comes with the next change
        else after.push(swap(now[at], document.importNode(one, true)));
      });
    } else {
      if (!next.length || now.some(inUse)) return false;
      now.forEach((one) => one.remove());
      main.append(...next.map((one) => document.importNode(one, true)));
    }
    before = raw;
    window.farthingDraw();
    after.forEach((restore) => restore());
    return true;
  }

  async function look() {
    timer = null;
    if (paused || document.hidden) return;
    try {
      const headers = mark ? { "if-none-match": mark } : {};
      const answer = await fetch("/live.json" + location.search, { headers, cache: "no-store", credentials: "same-origin" });
      if (answer.status === 401 || answer.status === 403) {
        shown.textContent = "Signed out";
        return;
      }
      if (answer.status === 200) {
        const first = !mark;
        const found = answer.headers.get("etag") || "";
        if (first || (await renew())) {
          mark = found;
          if (!first) {
            sinceNews = 0;
            label("Live, " + new Date().toISOString().slice(11, 19) + " UTC");
            if (Date.now() - saidAt > calm) {
              told.textContent = "New calls have come in; the figures are up to date.";
              saidAt = Date.now();
            }
          }
        }
      }
      if (answer.status === 304 && lookAgain.includes(++sinceNews)) await renew();
      wait = answer.ok || answer.status === 304 ? every : Math.min(wait * 2, slowest);
    } catch (error) {
      wait = Math.min(wait * 2, slowest);
      shown.textContent = "No answer; trying again";
    }
    again();
  }

  function again() {
    clearTimeout(timer);
    timer = paused || document.hidden ? null : setTimeout(look, wait);
  }

  button.addEventListener("click", function () {
    paused = !paused;
    sessionStorage.setItem("farthing-live", paused ? "off" : "on");
    label();
    again();
  });
  document.addEventListener("visibilitychange", function () {
    wait = 0;
    again();
    wait = every;
  });
  label();
  look();
})();
