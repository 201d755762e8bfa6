"""Pool files: each kind gives its instructions, whatever characters they hold."""

import json

from pipeline.reading.pool_file import read_pool_file


def test_lines_end_where_lines_end_and_nowhere_else(tmp_path):
    odd = "Name\u2028the\x0ccapital\x85of it."  # str.splitlines would end lines there
    (tmp_path / "a.txt").write_bytes(f"\ufeffSay it.\r\n{odd}\n\nSing it.".encode())
    assert read_pool_file(str(tmp_path / "a.txt")) == ["Say it.", odd, "Sing it."]
    lines = [json.dumps({"instruction": text}, ensure_ascii=False) for text in ("Say it.", odd)]
    (tmp_path / "a.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    assert read_pool_file(str(tmp_path / "a.jsonl")) == ["Say it.", odd]
