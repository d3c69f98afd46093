// What a reader of the report can do beyond reading: filter the images, open a cell of the matrix, look at one image
// larger, and choose the theme. Nothing is loaded; names are written as text, never as HTML.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const { classes, images } = JSON.parse($("data").textContent);
  const PER_PAGE = 60;
  // An image is [picture or 0, file, label, called, [[class, probability], …], trained on, novelty or 0].
  const [PICTURE, FILE, LABEL, CALLED, PROBABILITIES, SEEN, NOVELTY] = [0, 1, 2, 3, 4, 5, 6];
  const percent = (share) => `${(100 * share).toFixed(1)} %`;
  const confidence = (image) => image[PROBABILITIES][0][1];

  const make = (tag, settings = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), settings);
    made.append(...inside);
    return made;
  };

  // -- theme -----------------------------------------------------------------------------------------------------
  const kept = {
    get: () => { try { return localStorage.getItem("astroformer-report-theme"); } catch { return null; } },
    set: (theme) => { try { localStorage.setItem("astroformer-report-theme", theme); } catch { /* private window */ } },
  };
  const show = (theme) => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  for (const choice of document.querySelectorAll("input[name=theme]")) {
    choice.checked = choice.value === (kept.get() ?? "auto");
    choice.addEventListener("change", () => { show(choice.value); kept.set(choice.value); });
  }
  show(kept.get() ?? "auto");

  // -- pictures --------------------------------------------------------------------------------------------------
  const picture = (number) => {
    const image = images[number];
    if (!image[PICTURE]) return make("span", { className: "no-picture", textContent: "no picture" });
    return make("img", { src: image[PICTURE], alt: `image ${image[FILE]}`, width: 96, height: 96 });
  };
  const tile = (number, says) => {
    const image = images[number];
    const wrong = image[LABEL] !== image[CALLED];
    const words = [
      make("span", {
        className: wrong ? "said wrong" : "said",
        textContent: `${wrong ? "✗ " : "✓ "}${classes[image[CALLED]]}`,
        title: classes[image[CALLED]],
      }),
      make("span", {
        textContent: says === "novelty" ? `novelty ${image[NOVELTY].toFixed(2)}` : `${percent(confidence(image))} sure`,
      }),
      make("span", { textContent: `label: ${classes[image[LABEL]]}`, title: `label: ${classes[image[LABEL]]}` }),
      make("span", { className: "file", textContent: image[FILE].split("/").pop(), title: image[FILE] }),
    ];
    const button = make("button", { className: "tile", type: "button" }, picture(number), ...words);
    button.addEventListener("click", () => zoom(number));
    return make("li", {}, button);
  };
  for (const list of document.querySelectorAll("[data-images]")) {
    list.append(...JSON.parse(list.dataset.images).map((number) => tile(number, list.dataset.says)));
  }

  // -- the images of a filter ------------------------------------------------------------------------------------
  const [label, called, which, order] = ["label", "called", "which", "order"].map((id) => $(id));
  const orders = {
    surest: (a, b) => confidence(images[b]) - confidence(images[a]),
    doubtful: (a, b) => confidence(images[a]) - confidence(images[b]),
    novel: (a, b) => images[b][NOVELTY] - images[a][NOVELTY],
    file: (a, b) => a - b,
  };
  let chosen = [];
  const more = () => {
    const there = $("tiles").children.length;
    const says = order.value === "novel" ? "novelty" : "confidence";
    $("tiles").append(...chosen.slice(there, there + PER_PAGE).map((number) => tile(number, says)));
    $("more").hidden = there + PER_PAGE >= chosen.length;
  };
  const filter = () => {
    const fits = (image) =>
      (label.value === "" || image[LABEL] === +label.value) &&
      (called.value === "" || image[CALLED] === +called.value) &&
      (which.value === "all" || (which.value === "wrong") === (image[LABEL] !== image[CALLED]));
    chosen = [...images.keys()].filter((number) => fits(images[number])).sort(orders[order.value]);
    $("found").textContent = chosen.length === 1 ? "1 image" : `${chosen.length.toLocaleString("en")} images`;
    $("tiles").replaceChildren();
    more();
    for (const cell of document.querySelectorAll(".matrix button")) {
      cell.setAttribute("aria-pressed", cell.dataset.label === label.value && cell.dataset.called === called.value);
    }
  };
  for (const choice of [label, called, which, order]) choice.addEventListener("change", filter);
  $("more").addEventListener("click", () => {
    const there = $("tiles").children.length;
    more();
    $("tiles").children[there]?.querySelector("button").focus();
  });
  // A cell, and each button that names a class, opens its images.
  for (const button of document.querySelectorAll("button[data-opens]")) {
    button.addEventListener("click", () => {
      label.value = button.dataset.label ?? "";
      called.value = button.dataset.called ?? "";
      which.value = button.dataset.which ?? "all";
      filter();
      $("images").scrollIntoView({ block: "start" });
      $("images-heading").focus({ preventScroll: true });
    });
  }
  filter();

  // -- arrow keys in the matrix: one stop of the Tab key, then from cell to cell ------------------------------------
  const matrix = document.querySelector(".matrix");
  if (matrix) {
    const rows = [...matrix.tBodies[0].rows].map((row) => [...row.cells].slice(1).map((cell) => cell.querySelector("button")));
    const cells = rows.flat().filter(Boolean);
    cells.forEach((cell, i) => { cell.tabIndex = i === 0 ? 0 : -1; });
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    matrix.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      let r = rows.findIndex((row) => row.includes(event.target));
      if (!step || r < 0) return;
      event.preventDefault();
      let c = rows[r].indexOf(event.target);
      do { r += step[0]; c += step[1]; } while (rows[r] && c in rows[r] && !rows[r][c]);
      const next = rows[r]?.[c];
      if (!next) return;
      cells.forEach((cell) => { cell.tabIndex = -1; });
      next.tabIndex = 0;
      next.focus();
    });
  }

  // -- one image -------------------------------------------------------------------------------------------------
  const dialog = $("zoom");
  let from = null;
  const zoom = (number) => {
    const image = images[number];
    from = document.activeElement;
    const answers = image[PROBABILITIES].map(([k, p]) => make(
      "li", {},
      make("span", { textContent: classes[k] }), make("span", { textContent: percent(p) }),
      make("meter", { min: 0, max: 1, value: p, ariaHidden: "true" }),
    ));
    $("zoom-picture").replaceChildren(picture(number));
    $("zoom-file").textContent = image[FILE];
    const said = [`Label: ${classes[image[LABEL]]}.`];
    if (image[SEEN]) said.push("The model was trained on this image.");
    if (image[NOVELTY] > 1) said.push(`It is unlike the training images (novelty ${image[NOVELTY].toFixed(2)}).`);
    $("zoom-label").textContent = said.join(" ");
    $("zoom-answers").replaceChildren(...answers);
    dialog.showModal();
  };
  $("zoom-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  dialog.addEventListener("close", () => from?.focus());
})();
