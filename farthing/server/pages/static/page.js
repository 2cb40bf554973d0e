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
          if (now[at] && !now[at].contains(form)) now[at].replaceWith(document.importNode(block, true));
        });
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

  // An open small-screen menu closes with Escape.
  document.addEventListener("keydown", function (event) {
    const menu = document.querySelector("details.burger[open]");
    if (event.key === "Escape" && menu) {
      menu.open = false;
      menu.querySelector("summary").focus();
    }
  });
})();
