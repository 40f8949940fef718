"""What is said when a private name of another package has moved."""

from __future__ import annotations

from importlib.metadata import requires, version

from packaging.requirements import Requirement


def moved(name: str, package: str) -> ImportError:
    """The error for a name that is not where it was read, with the versions that this release supports."""
    declared = [Requirement(line) for line in requires("solar-trl") or []]
    ranges = [str(line.specifier) for line in declared if line.name == package and not line.marker]
    supported = ranges[0] if ranges else ""
    return ImportError(
        f"`{name}` is not in {package} {version(package)} as solar-trl {version('solar-trl')} knows it, which was "
        f"made for {package}{supported}. Install a version in that range, or a newer solar-trl."
    )
