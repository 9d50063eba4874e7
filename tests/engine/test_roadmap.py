"""The roadmap's data holds what was promised, names find modules, and what is next follows from what was passed."""

import re
import shutil
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from faultline.engine.errors import BadRoadmap, UnknownName
from faultline.engine.module_names import find_module, find_topic
from faultline.engine.next_modules import next_modules
from faultline.engine.progress import ModuleProgress, Progress
from faultline.engine.roadmap import Roadmap, Topic, load, minutes
from faultline.engine.roadmap_copy import write_copy
from faultline.engine.statuses import ModuleStatus, TopicStatus, module_status, topic_status, totals

ROOT = Path(__file__).parents[2]
PROMISED = (Path(__file__).parent / "roadmap-paths.txt").read_text().split()
PAGE = ROOT / "sandbox" / "learning-roadmap" / "README.md"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
SIGNS = {"🔴 High": "high", "🟡 Medium": "medium", "🟢 Low": "low"}


def clone(root: Path, built: Collection[str] = ()) -> Roadmap:
    """A clone at `root` in which exactly the modules `built` are built."""
    (root / "sandbox" / "learning-roadmap").mkdir(parents=True)
    shutil.copy(ROOT / "sandbox" / "roadmap.toml", root / "sandbox")
    shutil.copy(PAGE, root / "sandbox" / "learning-roadmap")
    for module in load(root).exercises:
        if module.id in built:
            module.path.mkdir(parents=True)
            (module.path / "module.toml").write_text("minutes = 60\n")
    return load(root)


def passed(*modules: str) -> Progress:
    return Progress({module: ModuleProgress(tries=1, passed_at=NOON, touched_at=NOON) for module in modules})


def tried(module: str, at: datetime = NOON) -> Progress:
    return Progress({module: ModuleProgress(tries=1, touched_at=at)})


def every(topic: str, roadmap: Roadmap) -> list[str]:
    return [module.id for module in find_topic(roadmap, topic).modules]


def test_every_promised_folder_and_document_is_listed_in_order() -> None:
    roadmap = load(ROOT)

    listed = []
    for topic in roadmap.topics:
        for module in topic.modules:
            folder = f"sandbox/{topic.folder}/{module.folder}/"
            listed += [folder, *(folder + document for document in module.documents)]

    assert listed == [path for path in PROMISED if not path.endswith("/docs/")]
    assert len(roadmap.modules) == 105
    assert sum(len(module.documents) for module in roadmap.modules) == 91


def test_there_are_fourteen_topics_and_two_completed_ones() -> None:
    roadmap = load(ROOT)
    assert [topic.id for topic in roadmap.completed] == ["rabbitmq", "etl"]
    backend = ["redis", "resilience", "observability", "saga", "search", "gateway", "events", "grpc", "k8s", "security"]
    frontend = ["mfe", "federation", "mfe-comms", "mfe-deploy"]
    assert [topic.id for topic in roadmap.topics] == backend + frontend


def tracker_rows() -> dict[int, tuple[int, list[str]]]:
    """The page's tracker: for each topic number its line number and cells."""
    rows: dict[int, tuple[int, list[str]]] = {}
    for line_number, line in enumerate(PAGE.read_text().splitlines(), start=1):
        if re.match(r"\| \d+ +\|", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            rows[int(cells[0])] = (line_number, cells[1:])
    return rows


def linked(title: str) -> tuple[str, str | None]:
    link = re.fullmatch(r"\[(.+)\]\((.+)\)", title.strip("*"))
    return (link[1], link[2]) if link else (title.strip("*"), None)


@pytest.mark.parametrize("topic", load(ROOT).topics, ids=lambda topic: topic.id)
def test_page_and_data_say_the_same_of_a_topic(topic: Topic) -> None:
    _, (title, status, priority, stars, weeks) = tracker_rows()[topic.number]

    assert linked(title)[0] == topic.title
    assert status == TopicStatus.PENDING.label
    assert SIGNS[priority] == topic.priority
    assert stars == "⭐" * topic.complexity
    least, most = topic.weeks
    assert weeks.split()[0] == (f"{least:g}" if least == most else f"{least:g}-{most:g}")
    page = PAGE.read_text()
    assert f"sandbox/{topic.folder}/\n" in page
    for module in topic.modules:
        assert re.search(rf"^[├└]── {module.folder}/", page, re.MULTILINE), f"the page does not list {module.id}"
        for document in module.documents:
            assert f"── {document}" in page, f"the page does not list {document} of {module.id}"


@pytest.mark.parametrize("topic", load(ROOT).topics, ids=lambda topic: topic.id)
def test_a_topic_is_linked_on_the_page_once_its_folder_is_there(topic: Topic) -> None:
    line, (title, *_) = tracker_rows()[topic.number]
    expected = f"../{topic.folder}/" if topic.path.is_dir() else None
    should = f"[{topic.title}]({expected})" if expected else topic.title
    assert linked(title)[1] == expected, f"{PAGE.relative_to(ROOT)}:{line}: write {should} for the topic's name"


def test_a_module_is_built_when_its_folder_holds_a_module_toml(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=["redis/05"])
    find_module(roadmap, "redis/06").path.mkdir(parents=True)  # a folder alone is not enough

    assert [module.id for module in load(tmp_path).modules if module.built] == ["redis/05"]
    assert minutes(find_module(roadmap, "redis/05")) == 60
    assert minutes(find_module(roadmap, "redis/06")) is None


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('id = "redis"', "id = redis", "line"),
        ('title = "Redis Caching Patterns"', 'name = "Redis"', "unknown field `name`"),
        ("complexity = 2\nweeks", "complexity = 6\nweeks", "topics[0].complexity"),
        ('folder = "01-basic-operations"', 'folder = "1-basic"', "topics[0].modules[0].folder"),
        ('folder = "03-write-through-cache"', 'folder = "04-write-through-cache"', "not numbered 01, 02, 03"),
        ('folder = "flash-sale"', 'folder = "../flash-sale"', "topics[0].capstone.folder"),
        ('id = "resilience"', 'id = "redis"', "'redis' is listed twice"),
        ('prerequisites = ["redis"]', 'prerequisites = ["saga"]', "'saga', which is no topic listed before it"),
        ("number = 3\n", "number = 4\n", "'observability' has number 4, but is the 3."),
        ("weeks = [2, 3]", "weeks = [3, 2]", "at least 3 and at most 2 weeks"),
        ('folder = "saga-pattern"', 'folder = "redis-learning"', "two topics have the folder 'redis-learning'"),
    ],
)
def test_bad_data_is_refused_with_file_and_place(tmp_path: Path, old: str, new: str, said: str) -> None:
    clone(tmp_path)
    path = tmp_path / "sandbox" / "roadmap.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))

    with pytest.raises(BadRoadmap) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_missing_data_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadRoadmap, match=r"roadmap.toml is missing; restore it with git checkout"):
        load(tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "redis/05",
        "redis/5",
        "Redis/05/",
        " redis 5 ",
        "redis/05-distributed-locks",
        "redis/distributed-locks",
        "redis-learning/05-distributed-locks",
        "redis-learning/05-distributed-locks/exercise/lock.py",
        "sandbox/redis-learning/05-distributed-locks/",
        "/somewhere/saga/04/faultline/workspace/redis-learning/05-distributed-locks/lock.py",
        r"sandbox\redis-learning\05-distributed-locks",
        "05-distributed-locks",
        "distributed-locks",
        "redis05",
        "redis-5",
        "1.5",
        "1/5",
    ],
)
def test_a_sloppy_name_finds_its_module(name: str) -> None:
    assert find_module(load(ROOT), name).id == "redis/05"


def test_a_dot_means_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "workspace" / "redis-learning" / "05-distributed-locks"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    assert find_module(load(ROOT), ".").id == "redis/05"
    assert find_module(load(ROOT), "../06-rate-limiting").id == "redis/06"


@pytest.mark.parametrize("module", load(ROOT).exercises, ids=lambda module: module.id)
def test_every_module_is_found_by_its_id_and_its_path(module) -> None:
    roadmap = load(ROOT)
    assert find_module(roadmap, module.id) == module
    assert find_module(roadmap, str(module.path)) == module


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("redsi/05", "did you mean redis/05"),
        ("redis/09", "did you mean redis/0"),
        ("distributed-lock", "did you mean redis/05"),
        ("rate-limiting", "redis/06 or gateway/04"),
        ("redis", "'redis' is a topic; name a module of it, redis/01 to redis/08"),
        ("sandbox/redis-learning/", "is a topic; name a module of it, redis/01 to redis/08"),
        ("", "lists the topics"),
        ("zzz", "lists the topics"),
    ],
)
def test_an_unknown_module_gets_the_nearest_names(name: str, said: str) -> None:
    with pytest.raises(UnknownName, match=re.escape(said)):
        find_module(load(ROOT), name)


@pytest.mark.parametrize(
    "name", ["saga", "4", "04", "saga-pattern", "Saga  Pattern", "sandbox/saga-pattern/", "saga/05"]
)
def test_a_topic_is_found_by_any_of_its_names(name: str) -> None:
    assert find_topic(load(ROOT), name).id == "saga"


@pytest.mark.parametrize(("name", "said"), [("reddis", "did you mean redis?"), ("zzz", "the topics are redis, ")])
def test_an_unknown_topic_gets_the_nearest_names(name: str, said: str) -> None:
    with pytest.raises(UnknownName, match=re.escape(said)):
        find_topic(load(ROOT), name)


def test_a_pass_of_a_module_that_is_not_built_is_not_shown_as_done(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=["redis/05"])
    progress = passed(*every("redis", roadmap))

    assert module_status(find_module(roadmap, "redis/01"), progress) is ModuleStatus.NOT_BUILT
    assert topic_status(find_topic(roadmap, "redis"), progress) is TopicStatus.IN_PROGRESS
    assert (totals(roadmap, progress).built, totals(roadmap, progress).passed) == (1, 1)


def test_a_topic_is_completed_only_when_all_its_modules_are_passed(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=[module.id for module in load(ROOT).modules])
    for topic in roadmap.topics:
        ids = every(topic.id, roadmap)
        assert topic_status(topic, Progress()) is TopicStatus.PENDING
        assert topic_status(topic, tried(ids[-1])) is TopicStatus.IN_PROGRESS
        assert topic_status(topic, passed(*ids[1:])) is TopicStatus.IN_PROGRESS
        assert topic_status(topic, passed(*ids)) is TopicStatus.COMPLETED
    assert totals(roadmap, passed(*(module.id for module in roadmap.modules))).percent == 100


def test_next_skips_what_is_not_built_and_says_so(tmp_path: Path) -> None:
    back, front = next_modules(clone(tmp_path, built=["redis/05"]), Progress())

    assert back.command == "./lab start redis/05"
    assert [module.id for module in back.skipped] == ["redis/01", "redis/02", "redis/03", "redis/04"]
    assert (front.track, front.module, front.command) == ("frontend", None, None)
    assert len(front.skipped) == 24


def test_next_follows_prerequisites_then_priority_then_number(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=[module.id for module in load(ROOT).modules])
    met: list[str] = []
    done: list[str] = []
    while step := next_modules(roadmap, passed(*done))[0].module:
        done.append(step.id)
        topic = step.id.partition("/")[0]
        met += [] if topic in met else [topic]

    assert met == [
        "redis",
        "resilience",
        "observability",
        "saga",
        "search",
        "gateway",
        "events",
        "k8s",
        "security",
        "grpc",
    ]
    assert done[:9] == [*every("redis", roadmap), "resilience/01"]
    assert len(done) == 81


def test_next_puts_a_prerequisite_before_a_topic_of_higher_priority(tmp_path: Path) -> None:
    clone(tmp_path, built=["redis/01", "resilience/01"])
    path = tmp_path / "sandbox" / "roadmap.toml"
    path.write_text(path.read_text().replace('priority = "high"', 'priority = "low"', 1))  # redis, the first topic

    assert next_modules(load(tmp_path), Progress())[0].command == "./lab start redis/01"


def test_next_names_the_module_begun_last_before_any_other(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=["redis/01", "redis/05", "saga/03"])
    later = tried("saga/03", NOON + timedelta(hours=1)).modules
    progress = Progress({**tried("redis/05").modules, **later})

    step = next_modules(roadmap, progress)[0]

    assert (step.module and step.module.id, step.begun, step.command) == ("saga/03", True, "./lab check saga/03")


def test_next_says_when_nothing_is_left(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=[module.id for module in load(ROOT).exercises])
    for step in next_modules(roadmap, passed(*(module.id for module in roadmap.exercises))):
        assert (step.module, step.skipped) == (None, ())


def with_capstones(root: Path, **folders: str) -> Roadmap:
    """A clone in which these topics have these capstones, built, and no others; so is every module of theirs."""
    clone(root)
    path = root / "sandbox" / "roadmap.toml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("capstone = ")]
    for topic, folder in folders.items():
        head = lines.index(f'id = "{topic}"')
        lines.insert(head + 1, f'capstone = {{ folder = "{folder}", title = "A sale" }}')
    path.write_text("\n".join(lines))
    for topic in folders:
        for module in find_topic(load(root), topic).exercises:
            module.path.mkdir(parents=True)
            (module.path / "module.toml").write_text("minutes = 120\n")
    return load(root)


def test_a_capstone_is_an_exercise_that_is_not_counted(tmp_path: Path) -> None:
    roadmap = with_capstones(tmp_path, redis="flash-sale", resilience="black-friday")

    for topic, folder in (("redis", "flash-sale"), ("resilience", "black-friday")):
        capstone = find_module(roadmap, folder)
        assert capstone is find_topic(roadmap, topic).capstone
        assert (capstone.id, capstone.built, minutes(capstone)) == (f"{topic}/{folder}", True, 120)
        assert capstone.path == find_topic(roadmap, topic).path / "exercises" / folder
    assert find_topic(roadmap, "saga").capstone is None
    assert (len(roadmap.modules), len(roadmap.exercises)) == (105, 107)
    everything = passed(*(one.id for one in roadmap.exercises))
    assert (totals(roadmap, everything).modules, totals(roadmap, everything).built) == (105, 16)
    assert totals(find_topic(roadmap, "redis"), everything).passed == 8
    without = passed(*every("redis", roadmap))
    assert topic_status(find_topic(roadmap, "redis"), without) is TopicStatus.COMPLETED


@pytest.mark.parametrize(
    "name",
    [
        "redis/flash-sale",
        "redis flash-sale",
        "flash-sale",
        "1/flash-sale",
        "redis-learning/flash-sale",
        "sandbox/redis-learning/exercises/flash-sale",
        "workspace/redis-learning/exercises/flash-sale/flash_sale.py",
    ],
)
def test_a_capstone_is_found_by_any_of_its_names(name: str) -> None:
    assert find_module(load(ROOT), name).id == "redis/flash-sale"


def test_a_capstone_with_a_number_in_its_name_is_no_module(tmp_path: Path) -> None:
    roadmap = with_capstones(tmp_path, redis="99-sales")
    assert find_module(roadmap, "redis/99-sales").id == "redis/99-sales"
    assert find_module(roadmap, "redis/08").id == "redis/08"


def test_next_leads_to_the_capstone_after_the_modules_and_before_the_next_topic(tmp_path: Path) -> None:
    roadmap = with_capstones(tmp_path, redis="flash-sale", resilience="black-friday")
    done = every("redis", roadmap)

    step = next_modules(roadmap, passed(*done))[0]
    assert (step.command, step.skipped) == ("./lab start redis/flash-sale", ())
    begun = Progress({**passed(*done).modules, **tried("redis/flash-sale").modules})
    assert next_modules(roadmap, begun)[0].command == "./lab check redis/flash-sale"
    assert next_modules(roadmap, passed(*done, "redis/flash-sale"))[0].command == "./lab start resilience/01"


def statuses_on(page: str) -> list[str]:
    """What `grep Status` says of each topic."""
    return [line.split(" | ")[0] for line in page.splitlines() if line.startswith("**Status:**")]


def test_the_learners_copy_has_every_status_filled_in(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=[*every("redis", load(ROOT)), "mfe-deploy/05", "security/01"])
    progress = Progress({**passed(*every("redis", roadmap), "mfe-deploy/05").modules, **tried("security/01").modules})

    page = write_copy(roadmap, progress, tmp_path).read_text()

    labels = ["🔲 Pending"] * 14
    labels[0], labels[9], labels[13] = "✅ Completed", "🔄 In Progress", "🔄 In Progress"
    assert statuses_on(page) == [f"**Status:** {label}" for label in labels]
    rows = [line for line in page.splitlines() if re.match(r"\| \d+ ", line)]
    assert [row.split("|")[3].strip() for row in rows] == labels
    assert write_copy(roadmap, Progress(), tmp_path).read_text() == PAGE.read_text().replace(
        "](../", "](../../sandbox/"
    )


def test_links_of_the_copy_lead_where_those_of_the_page_do(tmp_path: Path) -> None:
    copy = write_copy(clone(tmp_path), Progress(), tmp_path)
    links = re.findall(r"\]\(([^)#:]+)\)", copy.read_text())
    source = re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text())
    assert [(copy.parent / link).resolve().relative_to(tmp_path.resolve()) for link in links] == [
        (PAGE.parent / link).resolve().relative_to(ROOT) for link in source
    ]


def test_ticked_boxes_stay_ticked_and_other_notes_are_kept_beside(tmp_path: Path) -> None:
    roadmap = clone(tmp_path, built=["redis/05"])
    path = write_copy(roadmap, Progress(), tmp_path)
    path.write_text(path.read_text().replace("- [ ] TTL and expiration", "- [x] TTL and expiration"))

    write_copy(roadmap, tried("redis/05"), tmp_path)

    assert "- [x] TTL and expiration strategies" in path.read_text()
    assert list(path.parent.iterdir()) == [path], "ticks and statuses alone need no second copy"
    for number in (1, 2):
        path.write_text(path.read_text() + f"my note {number}\n")
        write_copy(roadmap, Progress(), tmp_path)
        assert f"my note {number}" in path.with_name(f"README.md.{number}").read_text()
        assert "my note" not in path.read_text()
        assert "- [x] TTL and expiration strategies" in path.read_text()
