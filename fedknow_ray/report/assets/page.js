"use strict";
// Draws the figures in the colours of the page: "$name" in a figure stands for the CSS variable --name.
// A button with data-case shows and hides the traces of that legend group, in every figure.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const buttons = [...document.querySelectorAll("button[data-case]")];
  const hidden = new Set();
  const config = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "resetScale2d"]] };

  const inTheme = (value, style) => {
    if (typeof value === "string") {
      return value.startsWith("$") ? style.getPropertyValue("--" + value.slice(1)).trim() : value;
    }
    if (Array.isArray(value)) {
      return value.map((item) => inTheme(item, style));
    }
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, inTheme(item, style)]));
    }
    return value;
  };

  const draw = () => {
    const style = getComputedStyle(root);
    return Promise.all(Object.entries(figures).map(([id, figure]) => {
      const { data: all, layout } = inTheme(figure, style);
      const data = all.map((trace) => (hidden.has(trace.legendgroup) ? { ...trace, visible: false } : trace));
      // Paper does not wait for Plotly's own resizing, which comes a tenth of a second later.
      const width = root.classList.contains("printing") ? document.getElementById(id).clientWidth : undefined;
      return Plotly.react(id, data, { ...layout, width }, config);
    }));
  };

  const drawForPaper = (printing) => {
    root.classList.toggle("printing", printing);
    draw();
  };

  const toggle = (group) => {
    if (!hidden.delete(group)) {
      hidden.add(group);
    }
    buttons.filter((button) => button.dataset.case === group)
      .forEach((button) => button.setAttribute("aria-pressed", String(!hidden.has(group))));
    draw();
  };

  buttons.forEach((button) => button.addEventListener("click", () => toggle(button.dataset.case)));
  draw().then(() => { root.dataset.plots = "drawn"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => drawForPaper(true));
  addEventListener("afterprint", () => drawForPaper(false));
})();
