"""The C++ headers as Doxygen's XML, from which Breathe makes pages.

Run as a program, this file is the filter through which Doxygen reads a header.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

# What stands behind the namespace is no one's to read.
FOR_COMPILERS = "\ntemplate <>\nstruct std::tuple_size<"
NOT_SHOWN = re.compile(r" +// NOLINT.*|^    ArgumentsChecked check.*\n", re.MULTILINE)
TABLE = re.compile(
    r"^    static constexpr const char\* name = .*?\n    static constexpr auto fields\(\) \{\n.*?^    \}\n",
    re.MULTILINE | re.DOTALL,
)
FIELD = re.compile(r'Field\("(\w+)",\s*&\w+::\w+,\s*domains::(\w+)\)')
DOMAIN = re.compile(r'Domain (\w+)\{"([^"]+)"')
CONSTANT = re.compile(
    r"^(inline constexpr Domain \w+)\{\"([^\"]+)\".*?\};$", re.MULTILINE | re.DOTALL
)
# A remark at the end of a line is about what stands there.
REMARK = re.compile(r"^( +[^/\n]*[;,{})] +)// ", re.MULTILINE)


def shown(header: str, domains: dict[str, str]) -> str:
    """Return what of a header Doxygen is to see: a struct's table of fields as remarks on its members."""
    header = NOT_SHOWN.sub("", header.partition(FOR_COMPILERS)[0])
    header = CONSTANT.sub(r"\1;  ///< \2", REMARK.sub(r"\1///< ", header))
    while table := TABLE.search(header):
        begin = header.rfind("\nstruct ", 0, table.start())
        members = header[begin : table.start()]
        for name, domain in FIELD.findall(table[0]):
            member = re.compile(
                rf"^(    \S.* {name} =(?: .*|\n +.*);)(?: +///< (.*))?$", re.MULTILINE
            )
            members = member.sub(rf"\1  ///< {domains[domain]}; \2", members).replace("; \n", "\n")
        header = header[:begin] + members + header[table.end() :]
    return header


def filtered(path: Path) -> str:
    """Read a header as Doxygen is to see it."""
    fields = path.with_name("fields.hpp").read_text(encoding="utf-8")
    domains = {name: text[0].upper() + text[1:] for name, text in DOMAIN.findall(fields)}
    return shown(path.read_text(encoding="utf-8"), domains)


def run_doxygen(app: Sphinx, config: Config) -> None:
    """Make the XML before the pages are read."""
    doxygen = shutil.which("doxygen")
    if doxygen is None:
        raise SystemExit(
            "docs: expected the program doxygen, found none; install it (apt-get install doxygen, brew install doxygen)"
        )
    headers = Path(app.srcdir).parent / "cpp" / "include" / "fusedopt"
    output = Path(app.outdir).parent / "doxygen"
    output.mkdir(parents=True, exist_ok=True)
    settings = {
        "INPUT": f'"{headers}"',
        "OUTPUT_DIRECTORY": f'"{output}"',
        "FILE_PATTERNS": "*.hpp",
        "INPUT_FILTER": f'"\\"{sys.executable}\\" \\"{__file__}\\""',
        "GENERATE_HTML": "NO",
        "GENERATE_LATEX": "NO",
        "GENERATE_XML": "YES",
        "XML_PROGRAMLISTING": "NO",
        "JAVADOC_AUTOBRIEF": "YES",
        "EXTRACT_ALL": "YES",
        "QUIET": "YES",
        "WARN_IF_UNDOCUMENTED": "NO",
        "AUTOLINK_SUPPORT": "NO",
    }
    text = "\n".join(f"{name} = {value}" for name, value in settings.items())
    subprocess.run([doxygen, "-"], input=text, text=True, check=True)  # noqa: S603
    config.breathe_projects = {"fusedopt": str(output / "xml")}
    config.breathe_default_project = "fusedopt"


def setup(app: Sphinx) -> dict[str, bool]:
    """Join Sphinx."""
    app.connect("config-inited", run_doxygen, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


if __name__ == "__main__":
    sys.stdout.write(filtered(Path(sys.argv[1])))
