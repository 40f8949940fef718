"""What is released: the contents of wheel and sdist, the wheel in an empty environment, and the files that CI runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from models import tiny_model
from packaging.version import Version
from tiny_tokenizer import train_tokenizer


ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
REPOSITORY = "https://github.com/someone/solar-trl"
needs_github = pytest.mark.skipif(not WORKFLOWS, reason="an sdist has no workflows")
# Folders of the machine that something was built on
PRIVATE_PATHS = re.compile(rb"/(?:home|root|Users|work|workspace|mnt)/[A-Za-z]")


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The wheel and the sdist, built from a copy without what git would not ship, with the links of a release."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package)
    source, output = tmp_path_factory.mktemp("source") / "solar-trl", tmp_path_factory.mktemp("dist")
    ignored = shutil.ignore_patterns(".git", ".venv", "outputs", "dist", "build", ".*_cache", ".hypothesis")
    shutil.copytree(ROOT, source, ignore=ignored)
    if WORKFLOWS:
        github_script("link_repository").main(REPOSITORY, "v1.2.3", source)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    return output


@pytest.fixture(scope="module")
def wheel(dist):
    (path,) = dist.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def sdist(dist):
    (path,) = dist.glob("*.tar.gz")
    return path


def package_files() -> set[str]:
    files = (path for path in (ROOT / "solar_trl").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_wheel_holds_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        about = {name for name in names if ".dist-info/" in name}
        assert names - about == package_files()
        assert "solar_trl/py.typed" in names and any(name.endswith("licenses/LICENSE") for name in about)
        (entry_points,) = [name for name in about if name.endswith("entry_points.txt")]
        assert "solar-trl = solar_trl.scripts.cli:main" in archive.read(entry_points).decode()


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_metadata(metadata):
    assert metadata["Name"] == "solar-trl" and metadata["Version"] == PROJECT["version"]
    assert metadata["License-Expression"] == "Apache-2.0" and metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown" and "SolarSFTTrainer" in metadata.get_payload()
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])


@needs_github
def test_the_page_on_pypi_links_to_the_repository(metadata):
    assert f"Repository, {REPOSITORY}" in metadata.get_all("Project-URL")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    own = set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", readme))
    assert len(own) > 8 and "docs/figures/evidence.png" in own
    targets = set(re.findall(r"\]\(([^)]+)\)", metadata.get_payload()))
    assert not [target for target in targets if not target.startswith(("https://", "#"))]
    for target in own:
        kind = "raw" if target.endswith(".png") else "blob"
        assert f"{REPOSITORY}/{kind}/v1.2.3/{target}" in targets


@needs_github
def test_a_dead_link_is_not_released(tmp_path):
    absolute_links = github_script("link_repository").absolute_links
    (tmp_path / "there.md").touch()
    text = "[a](there.md#part) ![b](there.md) [c](https://x.org) [d](#here) `[e] (f)`"
    expected = text.replace("[a](", "[a](r/blob/v1/").replace("[b](", "[b](r/raw/v1/")
    assert absolute_links(text, "r", "v1", tmp_path) == expected
    with pytest.raises(ValueError, match=r"'gone\.md', which is not there"):
        absolute_links("[a](gone.md)", "https://x.org/r", "v1", tmp_path)


def test_sdist_holds_what_its_users_need(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        for name in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile"):
            assert name in names
        assert package_files() <= names
        for name in ("docs/conf.py", "docs/tutorial.md", "tests/conftest.py", "examples/sft_solar.py"):
            assert name in names
        for name in names:
            assert not re.search(r"(^|/)(__pycache__|shared|outputs|\.git|\.venv|.*\.py[co])(/|$)", name), name
        paths = {}
        for member in archive.getmembers():
            if member.isfile() and member.name.endswith(
                (".py", ".md", ".json", ".toml", ".yaml", ".yml", ".txt", ".svg")
            ):
                found = PRIVATE_PATHS.search(archive.extractfile(member).read())
                if found and not member.name.endswith("test_release.py"):
                    paths[member.name] = found[0]
        assert not paths
    assert sdist.stat().st_size < 5_000_000


def test_twine_takes_it(dist):
    pytest.importorskip("twine")
    files = [str(path) for path in dist.iterdir()]
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2


@pytest.mark.slow
def test_wheel_alone_trains(wheel, tmp_path):
    """
    In an environment that holds the wheel and no checkout: README's lines, offline.

    The other packages come from this environment by a path file, since they are large; the workflow `publish` installs
    them for real. An editable install of this package does not come along: path files in that folder are not read.
    """
    folder = tmp_path / "empty"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    tiny_model("qwen3", vocab_size=384).save_pretrained(tmp_path / "model")
    train_tokenizer().save_pretrained(tmp_path / "model")
    code = """
import sys
import solar_trl
assert solar_trl.__file__.startswith(sys.prefix), solar_trl.__file__
from datasets import Dataset
from peft import LoraConfig
from solar_trl import SolarSFTConfig, SolarSFTTrainer

rows = [("en", "2 + 3 = ?", " It is 5."), ("sw", "2 + 3 = ?", " Ni 5.")]
dataset = Dataset.from_list(
    [{"prompt": p, "completion": c, "language": lang, "parallel_id": 0} for lang, p, c in rows]
)
trainer = SolarSFTTrainer(
    model="model",
    args=SolarSFTConfig(output_dir="out", max_steps=1, use_cpu=True, bf16=False, report_to="none"),
    train_dataset=dataset,
    peft_config=LoraConfig(),
)
trainer.train()
print("version", solar_trl.__version__, "step", trainer.state.global_step)
"""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(python), "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**clean, "HF_HUB_OFFLINE": "1"},
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert f"version {PROJECT['version']} step 1" in ran.stdout
    told = subprocess.run(
        [str(folder / "bin" / "solar-trl"), "--version"], cwd=tmp_path, capture_output=True, text=True
    )
    assert told.stdout.strip() == f"solar-trl {PROJECT['version']}"


# One version


def test_version_is_written_once_in_code():
    for path in (ROOT / "solar_trl").rglob("*.py"):
        assert not re.search(r"__version__ *= *[\"']\d", path.read_text(encoding="utf-8")), path
    assert str(Version(PROJECT["version"])) == PROJECT["version"]


def github_script(name: str):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".github" / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def check_release():
    return github_script("check_release").problems


@needs_github
def test_a_tag_is_checked(check_release, tmp_path):
    for name in ("pyproject.toml", "CITATION.cff"):
        shutil.copy(ROOT / name, tmp_path)
    version = PROJECT["version"]
    (tmp_path / "CHANGELOG.md").write_text(f"## [Unreleased]\n\n## [{version}] - 2026-12-01\n", encoding="utf-8")
    assert check_release(f"v{version}", tmp_path) == []
    assert "The tag is v9.9.9" in check_release("v9.9.9", tmp_path)[0]
    assert len(check_release(version, tmp_path)) == 1  # without the v
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n", encoding="utf-8")
    assert "CHANGELOG.md has no section" in check_release(f"v{version}", tmp_path)[0]
    cited = (tmp_path / "CITATION.cff").read_text(encoding="utf-8").replace(f"version: {version}", "version: 0.0.1")
    (tmp_path / "CITATION.cff").write_text(cited, encoding="utf-8")
    assert "CITATION.cff has the version 0.0.1" in check_release(f"v{version}", tmp_path)[0]


@needs_github
def test_all_files_have_the_version(check_release):
    found = check_release(f"v{PROJECT['version']}", ROOT)
    assert not [problem for problem in found if "CHANGELOG" not in problem]  # which gets its section with the release


# CI


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@needs_github
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow(path):
    text = path.read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
        assert re.search(re.escape(action) + r" # v\d+\.\d+\.\d+$", text, re.MULTILINE), action
    # Text that others write, such as a branch's name, is not pasted into a shell
    for step in steps(workflow):
        assert "${{ github." not in step.get("run", ""), step
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] is False


@needs_github
def test_one_commit_per_action():
    used = {step["uses"] for path in WORKFLOWS for step in steps(yaml.safe_load(path.read_text())) if "uses" in step}
    assert len({action.partition("@")[0] for action in used}) == len(used)


@needs_github
def test_tests_run_on_every_supported_python():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]["include"]
    declared = {name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert {entry["python"] for entry in matrix if entry["versions"] == "newest"} == declared
    assert {"3.11", "3.14"} <= declared
    assert "floor" in {entry["versions"] for entry in matrix}


@needs_github
def test_only_the_job_that_publishes_may_and_it_runs_no_code():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text(encoding="utf-8"))
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and "permissions" not in build
    assert publish["needs"] == "build" and publish["environment"]["name"] == "pypi"
    assert not [step for step in publish["steps"] if "run" in step or "checkout" in step["uses"]]
    runs = [step.get("run", "") for step in build["steps"]]
    checked, built = (
        next(i for i, run in enumerate(runs) if part in run) for part in ("check_release.py", "-m build")
    )
    assert checked < built and any("twine check --strict" in run for run in runs)
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true


@needs_github
def test_other_files_of_the_repository():
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    for path in forms:
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        if path.name != "config.yml":
            assert form["name"] and form["description"]
            ids = [part["id"] for part in form["body"]]
            assert len(ids) == len(set(ids)) >= 3
    assert len(forms) == 3
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert {hook["id"] for repo in hooks for hook in repo["hooks"]} == {"ruff-check", "ruff-format", "typos", "mypy"}
    tomllib.loads((ROOT / ".github" / "typos.toml").read_text(encoding="utf-8"))
    for name in ("SECURITY.md", "CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md"):
        assert (ROOT / name).stat().st_size > 100


def test_makefile_targets_are_helped():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)[1].split()) - {"help"}
    assert phony == set(re.findall(r'@echo "make ([\w-]+)', text)) and "docs" in phony
