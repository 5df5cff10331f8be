"use strict";

// Curves: a line, dots and numbers at the measured point nearest to the pointer, or by arrow keys.
for (const figure of document.querySelectorAll(".chart")) {
  const curves = JSON.parse(figure.dataset.curves);
  const svg = figure.querySelector("svg");
  const readout = figure.querySelector("output");
  const places = [...new Set(curves.flatMap(([, , points]) => points.map((point) => point[0])))];
  places.sort((a, b) => a - b);
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return svg.appendChild(element);
  };
  const cursor = make("path", { class: "cursor", visibility: "hidden" });
  const dots = curves.map(([, color]) => make("circle", { r: 4, visibility: "hidden", style: `stroke: var(--line${color})` }));
  const nearest = (items, x, place) =>
    items.reduce((best, item) => (Math.abs(place(item) - x) < Math.abs(place(best) - x) ? item : best));
  let chosen = null;

  const show = (x) => {
    chosen = nearest(places, x, (place) => place);
    cursor.setAttribute("d", `M${chosen} 8V196`);
    cursor.setAttribute("visibility", "visible");
    let epoch = "";
    const texts = curves.map(([name, , points], index) => {
      const point = nearest(points, chosen, (each) => each[0]);
      const far = Math.abs(point[0] - chosen) > 40;
      dots[index].setAttribute("visibility", far ? "hidden" : "visible");
      dots[index].setAttribute("cx", point[0]);
      dots[index].setAttribute("cy", Math.max(4, point[1]));
      if (point[0] === chosen) epoch = point[2];
      return far ? "" : `${name} ${point[3]}${figure.dataset.unit}`;
    });
    readout.textContent = `epoch ${epoch}: ${texts.filter(Boolean).join(", ")}`;
  };
  const rest = () => {
    chosen = null;
    for (const element of [cursor, ...dots]) element.setAttribute("visibility", "hidden");
    readout.textContent = "";
  };
  svg.tabIndex = 0;
  for (const kind of ["pointermove", "pointerdown"]) {
    svg.addEventListener(kind, (event) => {
      const box = svg.getBoundingClientRect();
      show(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width);
    });
  }
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const last = places.length - 1;
    const from = chosen === null ? last : places.indexOf(chosen);
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(places[Math.min(last, Math.max(0, to))]);
  });
}

// Segmented images: the classes under the pointer, read from the colors of label and prediction.
for (const tiles of document.querySelectorAll("[data-classes]")) {
  const names = JSON.parse(tiles.dataset.classes);
  const pixels = new Map();
  const nameAt = (image, across, down) => {
    if (!pixels.has(image)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      pixels.set(image, context);
    }
    const at = (share, length) => Math.min(length - 1, Math.max(0, Math.floor(share * length)));
    const [x, y] = [at(across, image.naturalWidth), at(down, image.naturalHeight)];
    const [red, green, blue, alpha] = pixels.get(image).getImageData(x, y, 1, 1).data;
    return alpha ? names[`${red},${green},${blue}`] ?? "unknown" : "void";
  };
  for (const figure of tiles.querySelectorAll("figure")) {
    const readout = figure.querySelector("output");
    figure.querySelector(".views").addEventListener("pointermove", (event) => {
      if (event.target.tagName !== "IMG") return;
      const box = event.target.getBoundingClientRect();
      const at = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
      const [label, predicted] = ["label", "prediction"].map((kind) =>
        nameAt(figure.querySelector(`img.${kind}`), ...at));
      readout.textContent = `label: ${label}, predicted: ${predicted}`;
    });
    figure.querySelector(".views").addEventListener("pointerleave", () => { readout.textContent = ""; });
  }
}
