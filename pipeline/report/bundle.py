"""Makes `vega.min.js`, the library that draws the charts of reports: Vega, Vega-Lite and Vega-Embed in one script.

    python -m pipeline.report.bundle

The script comes out of the package vl-convert-python (`pip install -e '.[charts]'`), without node and without a network. It is
kept beside this file, so that neither a run nor a reader needs that package.
"""

from __future__ import annotations

from pathlib import Path

LIBRARY = Path(__file__).parent / "vega.min.js"


def bundle() -> str:
    """The library as a script that defines `vegaEmbed` alone."""
    import vl_convert

    # The bundle is a module, whose names would be everybody's in a plain script.
    return (
        f"/* Vega {vl_convert.get_vega_version()}, Vega-Lite, Vega-Embed {vl_convert.get_vega_embed_version()} and what they "
        f"are made of: see vega.LICENSES.txt. Bundled by vl-convert-python {vl_convert.__version__}. */\n"
        f"(()=>{{{vl_convert.javascript_bundle()}}})();\n"
    )


if __name__ == "__main__":
    LIBRARY.write_text(bundle(), encoding="utf-8")
