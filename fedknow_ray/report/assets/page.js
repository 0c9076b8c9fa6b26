"use strict";
// Draws the figures in the colours of the page: "$name" in a figure stands for the CSS variable --name.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
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
      const { data, layout } = inTheme(figure, style);
      // Paper does not wait for Plotly's own resizing, which comes a tenth of a second later.
      const width = root.classList.contains("printing") ? document.getElementById(id).clientWidth : undefined;
      return Plotly.react(id, data, { ...layout, width }, config);
    }));
  };

  const drawForPaper = (printing) => {
    root.classList.toggle("printing", printing);
    draw();
  };

  draw().then(() => { root.dataset.plots = "drawn"; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => drawForPaper(true));
  addEventListener("afterprint", () => drawForPaper(false));
})();
