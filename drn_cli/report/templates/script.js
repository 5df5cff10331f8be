"use strict";

// Charts: values at the epoch nearest to the pointer, or selected by arrow keys.
for (const figure of document.querySelectorAll(".chart")) {
  const curves = JSON.parse(figure.dataset.curves);
  const svg = figure.querySelector("svg");
  const readout = figure.querySelector("output");
  const xs = [...new Set(curves.flatMap(([, , points]) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const nearest = (items, x, position) =>
    items.reduce((best, item) => (Math.abs(position(item) - x) < Math.abs(position(best) - x) ? item : best));
  const dots = curves.map(([, color]) => `<circle r="4" style="stroke: var(--line${color})"/>`);
  svg.insertAdjacentHTML("beforeend", `<path class="cursor"/>${dots.join("")}`);
  let selected = null;
  const show = (x) => {
    selected = x === null ? null : nearest(xs, x, (each) => each);
    svg.classList.toggle("idle", selected === null);
    readout.textContent = "";
    if (selected === null) return;
    svg.querySelector(".cursor").setAttribute("d", `M${selected} 8V196`);
    let epoch = "";
    const texts = curves.map(([name, , points], index) => {
      const point = nearest(points, selected, (each) => each[0]);
      const near = Math.abs(point[0] - selected) <= 40;
      const dot = svg.querySelectorAll("circle")[index];
      dot.setAttribute("cx", near ? point[0] : -99);
      dot.setAttribute("cy", Math.max(4, point[1]));
      if (point[0] === selected) epoch = point[2];
      return near ? `${name} ${point[3]}${figure.dataset.unit}` : "";
    });
    readout.textContent = `epoch ${epoch}: ${texts.filter(Boolean).join(", ")}`;
  };
  show(null);
  svg.tabIndex = 0;
  for (const kind of ["pointermove", "pointerdown"]) {
    svg.addEventListener(kind, (event) => {
      const box = svg.getBoundingClientRect();
      show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
    });
  }
  for (const kind of ["pointerleave", "blur"]) svg.addEventListener(kind, () => show(null));
  svg.addEventListener("keydown", (event) => {
    const last = xs.length - 1;
    const from = selected === null ? last : xs.indexOf(selected);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(xs[Math.min(last, Math.max(0, to))]);
  });
}

// Label maps: the classes under the pointer, read from the colors of label and prediction.
for (const gallery of document.querySelectorAll("[data-classes]")) {
  const [names, colors] = JSON.parse(gallery.dataset.classes);
  const classAt = (image, x, y) => {
    const pixel = new OffscreenCanvas(1, 1).getContext("2d");
    pixel.drawImage(image, -Math.floor(x * image.naturalWidth), -Math.floor(y * image.naturalHeight));
    const [red, green, blue, alpha] = pixel.getImageData(0, 0, 1, 1).data;
    const found = names.filter((_, index) => colors[index].join() === [red, green, blue].join());
    return alpha ? found.join(" or ") : "void";
  };
  for (const figure of gallery.querySelectorAll("figure")) {
    const readout = figure.querySelector("output");
    figure.addEventListener("pointermove", ({ target, clientX, clientY }) => {
      readout.textContent = "";
      if (target.tagName !== "IMG") return;
      const box = target.getBoundingClientRect();
      const at = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
      const place = at.map((share) => Math.min(0.9999, Math.max(0, share)));
      const [label, predicted] = ["label", "prediction"].map((kind) =>
        classAt(figure.querySelector(`img.${kind}`), ...place));
      readout.textContent = `label: ${label}, predicted: ${predicted}`;
    });
    figure.addEventListener("pointerleave", () => { readout.textContent = ""; });
  }
}
