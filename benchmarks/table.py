"""The cells of a run as a table in Markdown, as docs/performance.md has it."""


def short(seconds):
    """Milliseconds, three digits."""
    text = f"{seconds * 1e3:.3g}"
    return f"{float(text):.0f}" if "e" in text else text


def draw(cells):
    types = len({(c["dtype"], c["routing"]) for c in cells}) > 1
    head = ["shape", *(["type", "routing"] if types else []), "T", "threads", "ours", "p10", "p90", "share", "of best", "best peer", "its time",
            "its share", "ratio (95 %)"]
    lines = [head, None]
    for cell in cells:
        row = [cell["shape"], *([cell["dtype"], cell["routing"]] if types else []), str(cell["tokens"]), str(cell["threads"])]
        ours = cell["engines"].get("ours")
        row += [*(short(ours[key]) for key in ("median", "p10", "p90")), f"{ours['share']:.2f}", f"{ours['share_of_best']:.2f}"] if ours else [""] * 5
        peer = cell["engines"].get(cell["best_peer"])
        row += [cell["best_peer"], short(peer["median"]), f"{peer['share']:.2f}"] if peer else [""] * 3
        row.append(f"{cell['ratio']:.2f} ({cell['ratio_95'][0]:.2f}-{cell['ratio_95'][1]:.2f})" if "ratio" in cell else "")
        lines.append(row)
    return "".join("|---" * len(head) + "|\n" if line is None else f"| {' | '.join(line)} |\n" for line in lines)
