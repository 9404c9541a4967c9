"""A plot of the roofline share over the number of tokens, one panel for each shape, as SVG: no library is needed."""
import math

WIDTH, HEIGHT, LEFT, TOP, BOTTOM, GAP = 340, 190, 46, 34, 40, 24
COLOURS = {"ours": "#1f77b4", "onnxruntime": "#d62728", "torch": "#2ca02c", "torch-loop": "#9467bd", "openvino": "#ff7f0e", "other": "#8c564b"}


def panel(cells, title, x0, y0):
    out = [f'<text x="{x0 + WIDTH / 2}" y="{y0 - 10}" text-anchor="middle" font-weight="bold">{title}</text>']
    tokens = sorted({c["tokens"] for c in cells})
    low, high = math.log2(tokens[0]), math.log2(max(tokens[-1], tokens[0] + 1))
    at_x = lambda t: x0 + (math.log2(t) - low) / (high - low) * WIDTH
    at_y = lambda share: y0 + HEIGHT * (1 - min(share, 1.05) / 1.05)
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = at_y(share)
        out.append(f'<line x1="{x0}" y1="{y:.1f}" x2="{x0 + WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    for t in tokens:
        out.append(f'<text x="{at_x(t):.1f}" y="{y0 + HEIGHT + 16}" text-anchor="middle">{t}</text>')
    out.append(f'<text x="{x0 + WIDTH / 2}" y="{y0 + HEIGHT + 31}" text-anchor="middle">tokens</text>')
    for engine, colour in COLOURS.items():
        for threads in sorted({c["threads"] for c in cells}):
            points = [(at_x(c["tokens"]), at_y(c["engines"][engine]["share"])) for c in
                      sorted(cells, key=lambda c: c["tokens"]) if c["threads"] == threads and engine in c["engines"]]
            dash = "" if threads > 1 else ' stroke-dasharray="5 3"'
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            if points:
                out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
            out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
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
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    x = LEFT
    names = [name for name in COLOURS if any(name in c["engines"] for c in cells)]
    for name in names:
        out.append(f'<line x1="{x}" y1="14" x2="{x + 18}" y2="14" stroke="{COLOURS[name]}" stroke-width="2"/>')
        out.append(f'<text x="{x + 23}" y="18">{name}</text>')
        x += 40 + 7 * len(name)
    if len({c["threads"] for c in cells}) > 1:
        out.append(f'<text x="{x}" y="18">dashed: 1 thread</text>')
    for i, ((shape, dtype), members) in enumerate(groups.items()):
        x0 = LEFT + (i % columns) * (WIDTH + LEFT + GAP)
        y0 = 30 + TOP + (i // columns) * (HEIGHT + TOP + BOTTOM)
        out += panel(members, f"{shape}, {dtype}: roofline share", x0, y0)
    return "\n".join([*out, "</svg>", ""])
