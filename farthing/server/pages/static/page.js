// Small comforts; every page works without them.
"use strict";
(function () {
  // Sliders show their value, and the figures of the page follow them.
  document.querySelectorAll("form[data-live]").forEach(function (form) {
    let waiting = null;
    let latest = 0;
    const address = () => form.getAttribute("action") + "?" + new URLSearchParams(new FormData(form)).toString();

    async function follow() {
      const mine = ++latest;
      document.body.setAttribute("aria-busy", "true");
      try {
        const answer = await fetch(address(), { headers: { accept: "text/html" }, credentials: "same-origin" });
        if (!answer.ok || mine !== latest) return;
        // Its style elements carry another page's nonce; they are empty and not needed.
        const text = (await answer.text()).replace(/<style[^>]*><\/style>/g, "");
        const fresh = new DOMParser().parseFromString(text, "text/html");
        const now = document.querySelectorAll("main > section, main > ul");
        const next = fresh.querySelectorAll("main > section, main > ul");
        next.forEach(function (block, at) {
          if (!now[at]) document.querySelector("main").append(document.importNode(block, true));
          else if (!now[at].contains(form)) now[at].replaceWith(document.importNode(block, true));
        });
        for (let at = next.length; at < now.length; at += 1) if (!now[at].contains(form)) now[at].remove();
        history.replaceState(null, "", address());
        window.farthingDraw();
      } finally {
        document.body.removeAttribute("aria-busy");
      }
    }

    form.addEventListener("input", function (event) {
      const field = event.target.parentElement;
      const shown = field && field.querySelector("output");
      if (shown) shown.textContent = event.target.value;
      clearTimeout(waiting);
      waiting = setTimeout(follow, 150);
    });
  });

  // A page whose answer is still being worked out shows how far it is, and is loaded anew once that is done.
  const pending = document.querySelector("main[data-pending]");
  const patience = 10000;
  let pause = 1000;
  let left = 0;  // when another page was chosen: loading this one anew meanwhile would call that off
  async function lookAgain() {
    try {
      const answer = await fetch(location.href, { headers: { accept: "text/html" }, credentials: "same-origin" });
      const text = (await answer.text()).replace(/<style[^>]*><\/style>/g, "");
      const fresh = new DOMParser().parseFromString(text, "text/html").querySelector("main");
      if (!answer.ok || !fresh || !fresh.dataset.pending) {
        if (Date.now() - left > patience) location.reload();
        else setTimeout(lookAgain, pause);
        return;
      }
      const now = pending.querySelectorAll(":scope > section, :scope > ul");
      fresh.querySelectorAll(":scope > section, :scope > ul").forEach(function (block, at) {
        const same = !now[at] || now[at].outerHTML === block.outerHTML;
        if (!same && !now[at].contains(document.activeElement)) now[at].replaceWith(document.importNode(block, true));
      });
    } catch (error) {
      pause = 5000;
    }
    pause = Math.min(pause * 1.2, 5000);
    setTimeout(lookAgain, pause);
  }
  if (pending) {
    window.addEventListener("beforeunload", function () { left = Date.now(); });
    setTimeout(lookAgain, pause);
  }

  // An open small-screen menu closes with Escape.
  document.addEventListener("keydown", function (event) {
    const menu = document.querySelector("details.burger[open]");
    if (event.key === "Escape" && menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
})();
