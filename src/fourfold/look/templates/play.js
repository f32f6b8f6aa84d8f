// Steps through a drawing's groups marked data-step: values forward, then gradients backward.
// Without this script the drawing shows its end state.
(function () {
  "use strict";
  var svg = document.currentScript.closest("svg"), space = "http://www.w3.org/2000/svg";
  var steps = Array.from(svg.querySelectorAll("[data-step]"));
  var last = Math.max.apply(null, steps.map(function (g) { return Number(g.dataset.step); }));
  if (!isFinite(last)) { return; }
  var at = last, timer = null;
  var view = svg.getAttribute("viewBox").split(" ").map(Number);
  var top = view[1] + view[3], width = Math.max(view[2], 430);
  svg.setAttribute("viewBox", [view[0], view[1], width, view[3] + 66].join(" "));
  svg.setAttribute("width", width);
  svg.setAttribute("height", view[3] + 66);
  svg.removeAttribute("role"); // it has controls now: no longer one picture

  function add(parent, name, attributes, text) {
    var made = document.createElementNS(space, name);
    Object.keys(attributes).forEach(function (key) { made.setAttribute(key, attributes[key]); });
    if (text) { made.textContent = text; }
    parent.appendChild(made);
    return made;
  }

  var says = add(svg, "text", { class: "f-ink", x: view[0] + 14, y: top + 50, "font-size": 12, "aria-live": "polite" });

  function show() {
    var words = [], kind = "";
    steps.forEach(function (g) {
      var step = Number(g.dataset.step);
      g.classList.toggle("hidden", step > at);
      g.classList.toggle("now", step === at && at < last);
      if (step === at && g.dataset.says) { words.push(g.dataset.says); kind = g.dataset.pass; }
    });
    var phase = kind === "gradient" ? "backward" : "forward";
    says.textContent = at === 0 ? "Step 0 of " + last + ": press ▶ to compute the values" :
      "Step " + at + " of " + last + ", " + phase + ": " + words.join(", ");
  }

  function go(step) {
    at = Math.min(last, Math.max(0, step));
    if (at === last) { stop(); }
    show();
  }

  function stop() {
    if (timer !== null) { clearInterval(timer); timer = null; }
  }

  function play() {
    if (timer !== null) { stop(); return; }
    if (at === last) { go(0); }
    timer = setInterval(function () { go(at + 1); }, 900);
  }

  var buttons = [
    ["first step", "start", function () { stop(); go(0); }],
    ["step back", "◀", function () { stop(); go(at - 1); }],
    ["step forward", "▶", function () { stop(); go(at + 1); }],
    ["last step", "end", function () { stop(); go(last); }],
    ["play and pause", "play", play]
  ];
  buttons.forEach(function (button, i) {
    var x = view[0] + 14 + 46 * i;
    var g = add(svg, "g", { role: "button", tabindex: 0, "aria-label": button[0], style: "cursor:pointer" });
    add(g, "rect", { class: "f-card s-line", x: x, y: top, width: 40, height: 28, rx: 6 });
    add(g, "text", { class: "f-ink", x: x + 20, y: top + 19, "font-size": 13, "text-anchor": "middle" }, button[1]);
    g.addEventListener("click", button[2]);
    g.addEventListener("keydown", function (event) {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button[2](); }
      if (event.key === "ArrowRight") { stop(); go(at + 1); }
      if (event.key === "ArrowLeft") { stop(); go(at - 1); }
    });
  });
  show();
})();
