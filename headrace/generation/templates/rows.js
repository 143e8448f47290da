"use strict";
// The list of rows: filters, order, pages. Every text of a row is untrusted and is only ever set as textContent.
(() => {
  const ROWS_A_PAGE = 50;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const collator = new Intl.Collator(undefined, { numeric: true });
  // Places of a row's fields; what it carries comes after them.
  const [CAMPAIGN, PARTITION, SET, VERDICT, RULES, ID, PROMPT, OUTPUT, VARIATION, CARRIED] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
  const campaigns = data.campaigns;
  const campaignOf = (row) => campaigns[row[CAMPAIGN]];
  const shardOf = (row) => campaignOf(row).prefix + row[PARTITION];
  const setOf = (row) => campaignOf(row).sets[row[SET]];
  const rulesOf = (row) => row[RULES].map((rule) => campaignOf(row).rules[rule]);
  const inWords = (rule) => rule.replaceAll("_", " ");
  const carriedOf = (row, name) => {
    const place = campaignOf(row).carried.indexOf(name);
    return place < 0 ? null : row[CARRIED + place];
  };
  // Of each campaign, row id → [role, kind, data: URL, whether it is small, what was measured of it]; a page without media has none.
  const media = byId("media") ? JSON.parse(byId("media").textContent) : [];
  const partsOf = (row) => media[row[CAMPAIGN]]?.[row[ID]] ?? [];
  const asText = (value) => (value === null || value === undefined ? "" : String(value));

  function element(name, properties = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(properties)) {
      if (key.includes("-")) made.setAttribute(key, value);
      else made[key] = value;
    }
    made.append(...children);
    return made;
  }

  function part([role, kind, url, isSmall]) {
    if (kind === "image") return element("img", { src: url, alt: `${role}'s picture`, className: isSmall ? "small" : "" });
    const player = element("audio", { controls: true, preload: "metadata", src: url });
    player.setAttribute("aria-label", `${role}'s recording`);
    return player;
  }

  const carried = [...new Set(campaigns.flatMap((campaign) => campaign.carried))];
  const dot = (row) => element("span", { className: `dot s${setOf(row)[2] % 6}` });
  const text = (value, className = "text") => element("div", { className }, value);
  const versionSet = {
    name: "version set",
    width: "14%",
    key: (row) => setOf(row)[0],
    cell: (row) => element("div", {}, dot(row), setOf(row)[0]),
  };
  const variation = {
    name: "variation",
    width: "88px",
    key: (row) => row[VARIATION],
    cell: (row) => text(asText(row[VARIATION]), ""),
  };
  const parts = {
    name: "parts",
    width: "220px",
    key: (row) => partsOf(row).length,
    cell: (row) => element("div", { className: "parts" }, ...partsOf(row).map(part)),
  };
  const columns = [
    { name: "prompt", width: media.length ? "16%" : "20%", key: (row) => row[PROMPT], cell: (row) => text(row[PROMPT]) },
    ...(media.length ? [parts] : []),
    ...(data.rows.some((row) => row[VARIATION] !== null) ? [variation] : []),
    { name: "output", width: "", key: (row) => row[OUTPUT], cell: (row) => text(row[OUTPUT] || "(no text)") },
    // As many as leave room for the texts; a row's details have all.
    ...carried.slice(0, 3).map((name) => ({
      name,
      width: "8%",
      key: (row) => carriedOf(row, name),
      cell: (row) => text(asText(carriedOf(row, name))),
    })),
    {
      name: "review",
      width: "10%",
      key: (row) => `${row[VERDICT]} ${rulesOf(row).join(" ")}`,
      cell: (row) => element("div", {}, ...tags(row)),
    },
    { name: "partition", width: "10%", key: shardOf, cell: (row) => inDagster(row, shardOf(row)) },
    ...(new Set(campaigns.flatMap((campaign) => campaign.sets.map(([, id]) => id))).size > 1 ? [versionSet] : []),
    { name: "row", width: "96px", key: (row) => row[ID], cell: moreButton },
  ];

  function tags(row) {
    if (row[VERDICT] === 1 && row[RULES].length)
      return rulesOf(row).flatMap((rule) => [element("span", { className: "tag rejected" }, inWords(rule)), " "]);
    const className = ["kept", "rejected", "unreviewed"][row[VERDICT]];
    return [element("span", { className: `tag ${className}` }, data.verdicts[row[VERDICT]])];
  }

  function inDagster(row, shown) {
    if (!data.partition_url) return text(shown, "");
    const key = encodeURIComponent(campaignOf(row).key + row[PARTITION]);
    return element("a", { href: data.partition_url + key }, shown);
  }

  function moreButton(row) {
    const button = element("button", { type: "button", className: "more", "aria-expanded": "false", title: row[ID] }, row[ID].slice(0, 8));
    button.setAttribute("aria-label", `Details of row ${row[ID].slice(0, 8)}`);
    button.addEventListener("click", () => {
      const line = button.closest("tr, li");
      const isOpen = line.classList.toggle("open");
      button.setAttribute("aria-expanded", String(isOpen));
      if (line.tagName === "LI") {
        if (isOpen) line.append(facts(row));
        else line.lastChild.remove();
      } else if (isOpen) line.after(details(row));
      else line.nextSibling.remove();
    });
    return button;
  }

  function details(row) {
    return element("tr", { className: "details" }, element("td", { colSpan: columns.length }, facts(row)));
  }

  function facts(row) {
    const list = element("dl");
    const add = (name, ...value) => list.append(element("dt", {}, name), element("dd", {}, ...value));
    add("prompt", row[PROMPT]);
    add("output", row[OUTPUT] || "(no text)");
    if (row[VARIATION] !== null) add("variation", asText(row[VARIATION]));
    campaignOf(row).carried.forEach((name, place) => add(name, asText(row[CARRIED + place])));
    add("review", ...tags(row));
    for (const [role, , , , figures] of partsOf(row)) if (figures) add(role, figures);
    add("campaign", campaignOf(row).name);
    add("partition", inDagster(row, campaignOf(row).key + row[PARTITION]));
    add("version set", `${setOf(row)[0]} · `, element("code", {}, setOf(row)[1]), copyButton("version set's id", setOf(row)[1]));
    add("row", element("code", {}, row[ID]), copyButton("row's id", row[ID]));
    add("trace", element("code", {}, `headrace trace ${row[ID]}`), copyButton("command", `headrace trace ${row[ID]}`));
    return list;
  }

  // One row as a tile of the contact sheet.
  function tile(row) {
    const shown = partsOf(row).map(part);
    // A campaign of texts alone lacks nothing.
    const lacks = Object.keys(media[row[CAMPAIGN]] ?? {}).length > 0 && !shown.length;
    return element(
      "li",
      { className: "card" },
      ...(lacks ? [element("span", { className: "none" }, "no picture or recording here")] : shown),
      text(row[OUTPUT] || "(no text)"),
      text(row[PROMPT], "text prompt"),
      element("div", { className: "foot" }, ...tags(row), moreButton(row)),
    );
  }

  function copyButton(what, value) {
    const button = element("button", { type: "button", "aria-label": `Copy the ${what}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(value);
        button.textContent = "Copied";
      } catch {
        // Where the browser gives no clipboard, the text is selected for Ctrl-C.
        getSelection().selectAllChildren(button.previousElementSibling);
        button.textContent = "Press Ctrl-C";
      }
    });
    return button;
  }

  // What a search finds a row by, made at the first search.
  let haystacks = null;
  const haystack = (row) =>
    [row[PROMPT], row[OUTPUT], ...row.slice(CARRIED).map(asText), row[ID], shardOf(row)].join("\n").toLowerCase();

  const form = byId("filters");
  const fields = form.elements;

  function option(select, value, label, count) {
    select.append(element("option", { value }, `${label} (${count.toLocaleString("en")})`));
  }

  function count(keysOf) {
    const counts = new Map();
    for (const row of data.rows) for (const key of keysOf(row)) counts.set(key, (counts.get(key) || 0) + 1);
    return [...counts].sort(([a], [b]) => collator.compare(a, b));
  }

  for (const [name, number] of count((row) => [campaignOf(row).name])) option(fields.campaign, name, name, number);
  for (const [verdict, number] of count((row) => [row[VERDICT]])) option(fields.verdict, verdict, data.verdicts[verdict], number);
  for (const [rule, number] of count(rulesOf)) option(fields.rule, rule, inWords(rule), number);
  for (const [set, number] of count((row) => [setOf(row)[0]])) option(fields.set, set, set, number);

  // Nothing to choose from: one campaign, one version set, no rule that rejected anything.
  for (const select of form.querySelectorAll("select")) {
    if (select === fields.view) continue;
    const least = select === fields.rule ? 2 : 3;
    select.parentNode.hidden = select.options.length < least;
  }

  let chosen = data.rows;
  let page = 0;
  let order = { column: null, direction: 1 };

  function filter() {
    const words = fields.text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const { campaign, verdict, rule, set } = Object.fromEntries(new FormData(form));
    if (words.length && !haystacks) haystacks = new Map(data.rows.map((row) => [row, haystack(row)]));
    chosen = data.rows.filter(
      (row) =>
        (!campaign || campaignOf(row).name === campaign) &&
        (!verdict || row[VERDICT] === Number(verdict)) &&
        (!rule || rulesOf(row).includes(rule)) &&
        (!set || setOf(row)[0] === set) &&
        words.every((word) => haystacks.get(row).includes(word)),
    );
    sort();
  }

  function compare(a, b) {
    // A row without a value comes last in both directions.
    if (a === null || b === null) return (a === null) - (b === null);
    return order.direction * (typeof a === "number" && typeof b === "number" ? a - b : collator.compare(a, b));
  }

  function sort() {
    if (order.column) {
      const keyed = chosen.map((row) => [order.column.key(row) ?? null, row]);
      chosen = keyed.sort(([a], [b]) => compare(a, b)).map(([, row]) => row);
    }
    page = 0;
    draw();
    say();
  }

  function say() {
    const reviewed = chosen.filter((row) => row[VERDICT] !== 2);
    const kept = reviewed.filter((row) => row[VERDICT] === 0).length;
    const rows = `${chosen.length.toLocaleString("en")} of ${data.rows.length.toLocaleString("en")} rows`;
    // Of a sample, in which rejected rows come first, it would say nothing of the day.
    const isWhole = data.rows.length === data.num_rows;
    const share = isWhole && reviewed.length ? `, ${((100 * kept) / reviewed.length).toFixed(1)}% of the reviewed ones kept` : "";
    byId("count").textContent = chosen.length ? rows + share : "No row fits these filters.";
  }

  const numPages = () => Math.max(1, Math.ceil(chosen.length / ROWS_A_PAGE));

  function draw() {
    const shown = chosen.slice(page * ROWS_A_PAGE, (page + 1) * ROWS_A_PAGE);
    const isSheet = media.length > 0 && fields.view.value === "sheet";
    byId("table").closest(".card").hidden = isSheet;
    byId("table").tBodies[0].replaceChildren(
      ...(isSheet ? [] : shown).map((row) => element("tr", {}, ...columns.map((column) => element("td", {}, column.cell(row))))),
    );
    if (media.length) {
      byId("sheet").hidden = !isSheet;
      byId("sheet").replaceChildren(...(isSheet ? shown : []).map(tile));
    }
    byId("pages").hidden = numPages() === 1;
    byId("page").textContent = `Page ${(page + 1).toLocaleString("en")} of ${numPages().toLocaleString("en")}`;
    for (const button of byId("pages").querySelectorAll("button"))
      button.disabled = ["first", "previous"].includes(button.dataset.to) ? page === 0 : page === numPages() - 1;
  }

  for (const column of columns) {
    const button = element("button", { type: "button" }, column.name);
    const head = element("th", { scope: "col" }, button);
    head.style.width = column.width;
    button.addEventListener("click", () => {
      order = { column, direction: order.column === column ? -order.direction : 1 };
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order.direction > 0 ? "ascending" : "descending");
      sort();
    });
    byId("table").tHead.rows[0].append(head);
  }

  byId("pages").addEventListener("click", ({ target }) => {
    const to = { first: 0, previous: page - 1, next: page + 1, last: numPages() - 1 }[target.dataset.to];
    if (to === undefined) return;
    page = to;
    draw();
    byId("count").scrollIntoView();
    // A button that has just become useless would drop the focus.
    if (target.disabled) byId("pages").querySelector("button:not(:disabled)")?.focus();
  });
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());

  byId("list").hidden = false;
  sort();
})();
