// Opens boxes marked data-opens="3": the drawing data-view="3" appears below the one that holds the box.
// Without this script the outermost drawing is shown.
(function () {
  "use strict";
  var svg = document.currentScript.closest("svg"), space = "http://www.w3.org/2000/svg";
  var view = svg.getAttribute("viewBox").split(" ").map(Number), margin = -view[0], gap = 34;
  var views = Array.from(svg.querySelectorAll("[data-view]")), open = [0];
  var back = svg.querySelector("rect");
  svg.removeAttribute("role"); // it has controls now: no longer one picture

  function find(number) { return views[number]; }

  function inside(outer) { // views that opened from a view, and from those in turn
    var found = [];
    find(outer).querySelectorAll("[data-opens]").forEach(function (box) {
      var number = Number(box.dataset.opens);
      if (open.indexOf(number) >= 0) { found.push(number); found = found.concat(inside(number)); }
    });
    return found;
  }

  function arrange() {
    var y = 0, width = 0;
    views.forEach(function (g) { g.style.display = "none"; });
    open.forEach(function (number, i) {
      var g = find(number);
      g.style.display = "";
      g.setAttribute("transform", "translate(0 " + y + ")");
      y += Number(g.dataset.height) + gap;
      width = Math.max(width, Number(g.dataset.width));
    });
    var size = [width + 2 * margin, y - gap + 2 * margin];
    svg.setAttribute("viewBox", [-margin, -margin, size[0], size[1]].join(" "));
    svg.setAttribute("width", size[0]);
    svg.setAttribute("height", size[1]);
    back.setAttribute("width", size[0]);
    back.setAttribute("height", size[1]);
    svg.querySelectorAll("[data-opens]").forEach(function (box) {
      var is = open.indexOf(Number(box.dataset.opens)) >= 0;
      box.setAttribute("aria-expanded", is);
      box.classList.toggle("opened", is);
    });
  }

  function toggle(box) {
    var number = Number(box.dataset.opens), at = open.indexOf(number);
    if (at >= 0) {
      var gone = [number].concat(inside(number));
      open = open.filter(function (n) { return gone.indexOf(n) < 0; });
    } else {
      var outer = Number(box.closest("[data-view]").dataset.view);
      open.splice(open.indexOf(outer) + 1, 0, number);
    }
    arrange();
    if (at < 0) { find(number).scrollIntoView({ block: "nearest" }); }
  }

  svg.querySelectorAll("[data-opens]").forEach(function (box) {
    box.setAttribute("role", "button");
    box.setAttribute("tabindex", 0);
    box.setAttribute("aria-label", box.querySelector("title").textContent);
    box.addEventListener("click", function () { toggle(box); });
    box.addEventListener("keydown", function (event) {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); toggle(box); }
    });
  });
  arrange();
})();
