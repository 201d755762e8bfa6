"""The image, built without Docker: the steps of cluster/Dockerfile, each stage in a root file system of its own, as root.

    PYTHONPATH=tests/cluster python tests/benchmarks/image.py --work /var/tmp/image    # minutes, gigabytes

A root has this machine's /usr and a copy of its /etc for the base image's Debian, and a fresh copy of this Python, without
any packages, in /usr/local. So it shows that the steps are right and that what they install is whole, for this user and in
these folders; not that the base image has what they need of Debian. pip is configured as on this machine (--bind names folders
that it reads, for example of wheels), and torch comes from pip's own index unless --build-arg TORCH_CPU_INDEX=... says another.

Then, in the last stage's root and as its user: `tss` runs a demo, and a head of Ray is started as KubeRay starts it, asked what
the manifests' probes ask, at another address than the loopback, and given a job as KubeRay's submitter gives it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import dockerfile
import manifests

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESS = "10.99.0.2"  # of the pod, in a network of its own


def base_root(root: Path, python: Path) -> None:
    """What stands for the base image: the machine's programs and libraries by mounts (see `enter`), a Python of its own."""
    for name in ("proc", "dev", "tmp", "usr", "etc", "home", "root", "var", "opt", "sys", "run", "context", "stages"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    for link in ("bin", "sbin", "lib", "lib32", "lib64"):
        if (Path("/") / link).is_symlink():
            (root / link).symlink_to((Path("/") / link).readlink())
    subprocess.run(["cp", "-a", "/etc/.", root / "etc"], check=True)
    for name in ("passwd", "group", "shadow", "gshadow"):  # of the accounts only those of the system
        lines = (root / "etc" / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if not _is_person(line, name)]
        (root / "etc" / name).write_text("".join(kept))
    local, version = root.with_name(root.name + "-local"), f"python{sys.version_info.major}.{sys.version_info.minor}"
    (local / "bin").mkdir(parents=True)
    shutil.copy2(python / "bin" / version, local / "bin" / version)
    for name in ("python", "python3"):
        (local / "bin" / name).symlink_to(version)
    left_out = shutil.ignore_patterns("site-packages", "test", "__pycache__", "idlelib")
    shutil.copytree(python / "lib" / version, local / "lib" / version, ignore=left_out, symlinks=True)
    for library in (python / "lib").glob("libpython*"):
        shutil.copy2(library, local / "lib" / library.name)
    (local / "lib" / version / "site-packages").mkdir()


def _is_person(line: str, file: str) -> bool:
    fields = line.split(":")
    return file in {"passwd", "group"} and fields[2].isdecimal() and 1000 <= int(fields[2]) < 65534


def enter(root: Path, script: str, *, binds: list[Path], mounts: dict[str, Path], network: bool) -> int:
    """Run a shell script as root in a root file system, in namespaces of its own that take all its mounts and processes along;
    the exit status. Without `network` it has its own, with nothing but the loopback and ADDRESS."""
    local = root.with_name(root.name + "-local")
    (root / "stage.sh").write_text(script)
    steps = ["set -eu", f"cd {shlex.quote(str(root))}", "mount --bind /usr usr", "mount -o remount,bind,ro usr"]
    steps += [f"mount --bind {shlex.quote(str(local))} usr/local", "mount --rbind /dev dev", "mount -t proc proc proc"]
    steps += ["mkdir -p shm && mount -t tmpfs -o mode=1777 tmpfs shm && mount --bind shm dev/shm"]
    for inside, outside in {**{str(one): one for one in binds}, **mounts}.items():
        target = shlex.quote(inside.lstrip("/"))
        steps.append(f"mkdir -p {target} && mount --bind {shlex.quote(str(outside))} {target}")
        steps.append(f"mount -o remount,bind,ro {target}")
    if not network:
        steps += ["ip link set lo up", "ip link add pod type veth peer name other", f"ip addr add {ADDRESS}/24 dev pod"]
        steps += ["ip link set pod up", "ip link set other up", f"ip route add default via {ADDRESS} dev pod"]
    steps.append("exec chroot . /bin/sh /stage.sh")
    command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
    command += [] if network else ["--net"]
    return subprocess.run([*command, "/bin/bash", "-c", "\n".join(steps)], check=False).returncode


def as_user(user: str, environment: dict[str, str], folder: str, command: str) -> str:
    """A line of shell that runs a command as a container of the image runs it: its user, environment and folder only."""
    account, _, group = user.partition(":")
    variables = " ".join(f"{key}={shlex.quote(value)}" for key, value in environment.items())
    become = f"setpriv --reuid={account} --regid={group or account} --clear-groups --no-new-privs --bounding-set=-all"
    return f"cd {folder} && env -i {variables} {become} -- /bin/bash -c {shlex.quote(command)}"


def head() -> str:
    """Start a head of Ray as KubeRay does, and ask it what the manifests' probes and a submitter ask."""
    groups = manifests.ray_groups(manifests.documents(REPOSITORY / "cluster" / "raycluster.yaml")[0])
    containers = [groups[name]["template"]["spec"]["containers"][0] for name in ("head", "cpu")]
    probes = [one[kind]["httpGet"] for one in containers for kind in ("readinessProbe", "livenessProbe")]
    paths = [(url, 200) for url in dict.fromkeys(f"http://{ADDRESS}:{one['port']}{one['path']}" for one in probes)]
    paths += [(f"http://{ADDRESS}:8080/metrics", 200), (f"http://{ADDRESS}:8265/api/jobs/", 401)]
    ask = f"""
import sys, time, urllib.error, urllib.request
wrong = 0
for url, expected in {paths!r}:
    for attempt in range(60):
        try:
            status = urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(url, timeout=5).status
        except urllib.error.HTTPError as error:
            status = error.code
        except OSError as error:
            status = str(error)
        if status == expected:
            break
        time.sleep(0.5)
    print(f"  {{url}} without a token: {{status}}, expected {{expected}}", flush=True)
    wrong += status != expected
sys.exit(wrong)
"""
    options = {**groups["head"]["rayStartParams"], "dashboard-host": "0.0.0.0", "metrics-export-port": "8080"}
    options |= {"dashboard-agent-listen-port": "52365", "object-store-memory": "200000000", "node-ip-address": ADDRESS}
    start = " ".join(f"--{key}={value}" for key, value in options.items())
    return "\n".join(
        [
            "set -e",
            f"ray start --head --no-monitor {start} > /tmp/start.log 2>&1 || (cat /tmp/start.log; exit 1)",
            f"python -c {shlex.quote(ask)}",
            f"ray health-check --address {ADDRESS}:6379",
            f"ray job submit --address http://{ADDRESS}:8265 --submission-id one --no-wait -- tss --help > /tmp/submit.log",
            f"ray job logs --address http://{ADDRESS}:8265 --follow one | grep -q 'usage: tss'",
            f"ray job status --address http://{ADDRESS}:8265 one 2>&1 | grep succeeded",
            "ray stop --force > /tmp/stop.log",
        ]
    )


def main() -> None:
    """Run all steps, print what each took; exits with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], type=Path, metavar="FOLDER", help="that pip reads")
    parser.add_argument("--python", type=Path, default=Path(sys.base_prefix), help="the Python of the base image")
    parser.add_argument("--rows", type=int, default=200, help="of the demo (default 200)")
    options = parser.parse_args()
    if os.geteuid():
        raise SystemExit("as root: it mounts and changes users")
    arguments = {"VARIANT": "cpu"} | dict(one.split("=", 1) for one in options.build_arg)
    stages = dockerfile.stages((REPOSITORY / "cluster" / "Dockerfile").read_text(), arguments)
    work = options.work.absolute()
    work.mkdir(parents=True)
    context = work / "context"
    context.mkdir()
    ignore = (REPOSITORY / "cluster" / "Dockerfile.dockerignore").read_text().splitlines()
    for name in (line[1:] for line in ignore if line.startswith("!")):
        subprocess.run(["cp", "-a", REPOSITORY / name, context / name], check=True)
    for cache in list(context.rglob("__pycache__")):
        shutil.rmtree(cache)

    steps = Steps(work, [stage.name for stage in stages], options.bind)
    for stage in stages:
        base_root(work / stage.name, options.python)
        # The official images have a pip; this Python's own is not copied. The linker finds libpython in /usr/local/lib.
        prepared = "ldconfig; python -m ensurepip > /dev/null && ln -sf pip3 /usr/local/bin/pip\n"
        steps.run(f"stage {stage.name}, from {stage.base}", stage.name, prepared + dockerfile.script(stage, arguments))
    use(steps, stages[-1], arguments, options.rows)
    steps.report()


class Steps:
    """What was run so far, each in the root of a stage; after one that failed, none is run."""

    def __init__(self, work: Path, stages: list[str], binds: list[Path]) -> None:
        self.work, self._stages, self._binds = work, stages, binds
        self._results: list[tuple[str, str, float]] = []

    def run(self, name: str, stage: str, script: str, network: bool = True) -> None:
        if any(state == "FAILED" for _, state, _ in self._results):
            self._results.append((name, "not run", 0.0))
            return
        print(f"=== {name}", flush=True)
        began, root = time.monotonic(), self.work / stage
        others = {
            f"/stages/{one}": self.work / one for one in self._stages if one != stage and (self.work / one).is_dir()
        }
        mounts = {"/context": self.work / "context", **others}
        status = enter(root, script, binds=self._binds, mounts=mounts, network=network)
        self._results.append((name, "FAILED" if status else "ran", time.monotonic() - began))

    def report(self) -> None:
        torch = self._megabytes("opt/tss/lib/python*/site-packages/torch")
        print(f"\n/opt/tss: {self._megabytes('opt/tss')} MB, of them torch {torch} MB")
        for name, state, seconds in self._results:
            print(f"{state:8}{seconds:7.1f} s  {name}")
        print("not run: the base image itself, the CPU index of torch, the GPU variant, layers and their cache")
        sys.exit(int(any(state != "ran" for _, state, _ in self._results)))

    def _megabytes(self, pattern: str) -> int:
        found = sorted((self.work / self._stages[-1]).glob(pattern))
        if not found:
            return 0
        return int(subprocess.run(["du", "-sm", *found], capture_output=True, text=True, check=True).stdout.split()[0])


def use(steps: Steps, last: dockerfile.Stage, arguments: dict[str, str], rows: int) -> None:
    """What a pod does with the image, as the image's user, without any network but its own."""
    user, folder = last.only("USER")[-1].text, last.only("WORKDIR")[-1].text
    pod = dockerfile.environment(last, arguments) | {"LANG": "C.UTF-8"}

    def container(name: str, command: str, **more: str) -> None:
        steps.run(name, last.name, as_user(user, pod | more, folder, command), network=False)

    container("tss --help", "tss --help > /dev/null")
    container(
        f"tss demo --rows {rows}", f"tss demo --rows {rows} --output /tmp/x --quiet && ls -d /tmp/x/runs/*/selected"
    )
    write = "touch ~/mine && ! touch /opt/tss/mine 2> /dev/null && ! touch /etc/mine 2> /dev/null"
    container("the user may write at home, and nowhere in the image", write)
    container("a login shell finds tss and ray", "env -u PATH bash --login -c 'command -v tss && command -v ray'")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "t" * 64}
    container("a head of Ray with a token: probes, metrics, a job", head(), **token)


if __name__ == "__main__":
    main()
