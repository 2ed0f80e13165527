"""Options of `python -m rlkit.report`."""

from __future__ import annotations

from dataclasses import dataclass

from rlkit.errors import RlkitError, check_range


@dataclass
class ReportConfig:
    """Options of `python -m rlkit.report RUN… key=value …`."""

    out: str | None = None
    """The file to write; null: `report.html` in the folder that was named first."""
    title: str | None = None
    """The page's title; null: the agents and environments."""
    png: bool = False
    """Also write the returns as a picture beside the page, for papers and slides; `--png` is the same."""
    svg: bool = False
    """Also write that picture in lines that stay sharp at any size; `--svg` is the same."""
    videos_mb: float = 8.0
    """Megabytes of the runs' videos and moving pictures that become part of the page; 0: none."""

    def validate(self) -> None:
        """Raises RlkitError on the first field whose value cannot work."""
        check_range("videos_mb", self.videos_mb, 0)
        if self.out is not None and not self.out.endswith((".html", ".htm")):
            raise RlkitError(f"out={self.out}: expected the name of an HTML file, such as {self.out.rstrip('/')}.html")
