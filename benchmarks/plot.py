"""A plot of the roofline share over the number of tokens, one panel for each shape, as SVG: no library is needed."""
import math

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 340, 190, 46, 34, 40, 24
# For light and for dark backgrounds.
COLOURS = {"ours": ("#1f77b4", "#6cb6ff"), "onnxruntime": ("#d62728", "#ff7b72"), "torch": ("#2ca02c", "#57d364"), "torch-loop": ("#9467bd", "#d2a8ff"),
           "openvino": ("#c96a00", "#ffa657"), "other": ("#8c564b", "#d0b0a8")}
PAPER, INK, GRID = ("#ffffff", "#0d1117"), ("#1f2328", "#e6edf3"), ("#dddddd", "#3d444d")


def style():
    """Attributes give the colours of light backgrounds; where the reader prefers dark ones, these rules take their place."""
    rules = [f".paper{{fill:{PAPER[1]}}}", f"text{{fill:{INK[1]}}}", f".grid{{stroke:{GRID[1]}}}"]
    rules += [f"line.{name},polyline.{name}{{stroke:{dark}}}circle.{name}{{fill:{dark}}}" for name, (_, dark) in COLOURS.items()]
    return "<style>@media (prefers-color-scheme: dark){" + "".join(rules) + "}</style>"


def panel(cells, title, x0, y0):
    out = [f'<text x="{x0 + WIDTH / 2}" y="{y0 - 10}" text-anchor="middle" font-weight="bold">{title}</text>']
    tokens = sorted({c["tokens"] for c in cells})
    low, high = math.log2(tokens[0]), math.log2(max(tokens[-1], tokens[0] + 1))
    at_x = lambda t: x0 + (math.log2(t) - low) / (high - low) * WIDTH
    # Shares above 1 come from moments in which the limits changed; they are shown as they are.
    top = max([1.05, *(1.03 * e["share"] for c in cells for name, e in c["engines"].items() if name in COLOURS)])
    at_y = lambda share: y0 + HEIGHT * (1 - share / top)
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = at_y(share)
        out.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + WIDTH}" y2="{y:.1f}" class="grid" stroke="{GRID[0]}"/>')
        out.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    for t in tokens:
        out.append(f'<text x="{at_x(t):.1f}" y="{y0 + HEIGHT + 16}" text-anchor="middle">{t}</text>')
    out.append(f'<text x="{x0 + WIDTH / 2}" y="{y0 + HEIGHT + 31}" text-anchor="middle">tokens</text>')
    for engine, (colour, _) in COLOURS.items():
        for threads in sorted({c["threads"] for c in cells}):
            points = [(at_x(c["tokens"]), at_y(c["engines"][engine]["share"])) for c in
                      sorted(cells, key=lambda c: c["tokens"]) if c["threads"] == threads and engine in c["engines"]]
            dash = "" if threads > 1 else ' stroke-dasharray="5 3"'
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            if points:
                out.append(f'<polyline class="{engine}" points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            out += [f'<circle class="{engine}" cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
    return out


def draw(cells):
    """The SVG text for the cells of a run (uniform routing)."""
    cells = [c for c in cells if c["routing"] == "uniform"]
    groups = {}
    for cell in cells:
        groups.setdefault((cell["shape"], cell["dtype"]), []).append(cell)
    columns = min(2, len(groups)) or 1
    rows = -(-len(groups) // columns)
    width = columns * (WIDTH + LEFT + GAP) + GAP
    height = rows * (HEIGHT + TOP + BOTTOM) + 34
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11" fill="{INK[0]}">',
           style(), f'<rect class="paper" width="{width}" height="{height}" fill="{PAPER[0]}"/>']
    x = LEFT
    names = [name for name in COLOURS if any(name in c["engines"] for c in cells)]
    for name in names:
        out.append(f'<line class="{name}" x1="{x}" y1="14" x2="{x + 18}" y2="14" stroke="{COLOURS[name][0]}" stroke-width="2"/>')
        out.append(f'<text x="{x + 23}" y="18">{name}</text>')
        x += 40 + 7 * len(name)
    if any(c["threads"] == 1 for c in cells):
        out.append(f'<text x="{x}" y="18">dashed: 1 thread</text>')
    for i, ((shape, dtype), members) in enumerate(groups.items()):
        x0 = LEFT + (i % columns) * (WIDTH + LEFT + GAP)
        y0 = 30 + TOP + (i // columns) * (HEIGHT + TOP + BOTTOM)
        out += panel(members, f"{shape}, {dtype}: roofline share", x0, y0)
    return "\n".join([*out, "</svg>", ""])
