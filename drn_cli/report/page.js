"use strict";

// Curves: a line, dots and numbers at the point nearest to the pointer, or chosen with the arrows.
for (const figure of document.querySelectorAll(".chart")) {
  const points = JSON.parse(figure.dataset.points);
  const svg = figure.querySelector("svg");
  const readout = figure.querySelector("output");
  const resting = readout.textContent;
  const make = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return svg.appendChild(element);
  };
  const cursor = make("path", { class: "cursor", visibility: "hidden" });
  const dots = points[0][2].map(() => make("circle", { class: "dot", r: 4, visibility: "hidden" }));
  let chosen = null;

  const show = (index) => {
    chosen = index;
    const [x, text, heights] = points[index];
    cursor.setAttribute("d", `M${x} 12V196`);
    cursor.setAttribute("visibility", "visible");
    dots.forEach((dot, line) => {
      dot.setAttribute("visibility", heights[line] === null ? "hidden" : "visible");
      dot.setAttribute("cx", x);
      dot.setAttribute("cy", heights[line] ?? 0);
    });
    readout.textContent = text;
  };
  const rest = () => {
    chosen = null;
    for (const element of [cursor, ...dots]) element.setAttribute("visibility", "hidden");
    readout.textContent = resting;
  };
  const nearest = (x) => {
    let best = 0;
    points.forEach((point, index) => {
      if (Math.abs(point[0] - x) < Math.abs(points[best][0] - x)) best = index;
    });
    return best;
  };

  svg.tabIndex = 0;
  for (const kind of ["pointermove", "pointerdown"]) {
    svg.addEventListener(kind, (event) => {
      const box = svg.getBoundingClientRect();
      show(nearest(((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width));
    });
  }
  svg.addEventListener("pointerleave", rest);
  svg.addEventListener("blur", rest);
  svg.addEventListener("keydown", (event) => {
    const last = points.length - 1;
    const from = chosen ?? last;
    const to = { ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(Math.min(last, Math.max(0, to)));
  });
}

// Pictures: the names of the classes under the pointer.
for (const shots of document.querySelectorAll(".shots[data-classes]")) {
  const names = JSON.parse(shots.dataset.classes);
  const pixels = new Map();
  const read = (image) => {
    if (!pixels.has(image)) {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      pixels.set(image, context);
    }
    return pixels.get(image);
  };
  const nameAt = (image, across, down) => {
    const x = Math.min(image.naturalWidth - 1, Math.floor(across * image.naturalWidth));
    const y = Math.min(image.naturalHeight - 1, Math.floor(down * image.naturalHeight));
    const [red, green, blue, alpha] = read(image).getImageData(x, y, 1, 1).data;
    return alpha ? names[`${red},${green},${blue}`] ?? "unknown" : "void";
  };
  for (const figure of shots.querySelectorAll("figure")) {
    const frame = figure.querySelector(".frame");
    const readout = figure.querySelector("output");
    const show = (event) => {
      const box = frame.getBoundingClientRect();
      const across = Math.max(0, (event.clientX - box.left) / box.width);
      const down = Math.max(0, (event.clientY - box.top) / box.height);
      const [label, predicted] = ["label", "prediction"].map((kind) =>
        nameAt(figure.querySelector(`img.${kind}`), across, down));
      readout.textContent = `label: ${label}, predicted: ${predicted}`;
    };
    frame.addEventListener("pointermove", show);
    frame.addEventListener("pointerdown", show);
    frame.addEventListener("pointerleave", () => { readout.textContent = ""; });
  }
}
