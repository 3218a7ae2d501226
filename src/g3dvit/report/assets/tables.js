// Tables that sort by a click or a key, and downloads. Cells stay text.
(function (root) {
  "use strict";

  function sortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (head.dataset.fixed !== undefined) return;
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      head.dataset.words = head.textContent.trim(); // paper repeats heads, but no buttons
      button.append(...head.childNodes);
      head.append(button);
      button.onclick = () => {
        const descending = head.getAttribute("aria-sort") === "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", descending ? "descending" : "ascending");
        const rows = [...table.tBodies[0].rows];
        const cells = rows.map((row) => [...row.cells].map((cell) => cell.textContent));
        const order = chartmath.order(cells, column, descending);
        table.tBodies[0].append(...order.map((n) => rows[n]));
      };
    });
  }

  function textOf(table) {
    const heads = [...table.tHead.rows[0].cells];
    const kept = heads.map((head, n) => n).filter((n) => heads[n].dataset.fixed === undefined);
    const words = (row) => kept.map((n) => row.cells[n].textContent.trim());
    return chartmath.tsv(words(table.tHead.rows[0]), [...table.tBodies[0].rows].filter((row) => !row.hidden).map(words));
  }

  function save(name, blob) {
    const url = URL.createObjectURL(blob);
    follow(name, url);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function follow(name, url) {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
  }

  function start() {
    document.querySelectorAll("table.sortable").forEach(sortable);
    document.querySelectorAll("button[data-tsv]").forEach((button) => {
      button.onclick = () => {
        const text = textOf(document.getElementById(button.dataset.tsv));
        save(button.dataset.name + ".tsv", new Blob([text], { type: "text/tab-separated-values" }));
      };
    });
    const pictures = [...document.querySelectorAll("figure > img")];
    document.querySelectorAll("button[data-png]").forEach((button) => {
      const title = button.dataset.png;
      const own = button.closest("figure");
      const name = title.replace(/[^A-Za-z0-9]+/g, "-").slice(0, 80);
      button.onclick = () => {
        const picture = own ? own.querySelector("img") : pictures.find((p) => p.alt === title);
        follow(name + ".png", picture.src);
      };
    });
    document.querySelectorAll("button[data-text]").forEach((button) => {
      button.onclick = () => {
        const holder = document.getElementById(button.dataset.text);
        const items = [...holder.querySelectorAll("li")];
        const text = items.length ? items.map((li) => li.textContent).join("\n") : holder.textContent;
        save(button.dataset.name, new Blob([text + "\n"], { type: "text/plain" }));
      };
    });
    document.querySelectorAll("button[data-copy]").forEach((button) => {
      button.onclick = () => {
        const selection = getSelection();
        selection.selectAllChildren(document.getElementById(button.dataset.copy));
        button.textContent = document.execCommand("copy") ? "Copied" : "Selected: press Ctrl+C";
      };
    });
  }

  root.tables = { start, save, textOf };
})(globalThis);
