"""Checks the container files without a container engine: the Dockerfile's instructions against the
tree and the programs' command lines, compose file and manifests by the fields that they may have and
the ones that they must. Called by ci/containers.sh with the directory of the two programs."""

import re
import subprocess
import sys

import yaml

bad = []


def check(holds, what):
    if not holds:
        bad.append(what)


def said(program, *args):
    return subprocess.run([f"{sys.argv[1]}/{program}", *args], capture_output=True, text=True, check=True).stdout


goumemd_help = said("goumemd", "--help")
commands = set(re.findall(r"^  ([a-z-]+)", said("goumemctl", "--help").split("Commands:")[1].split("Options:")[0], re.M))
variables = set(re.findall(r"\[env: (GOUMEM_\w+)\]", goumemd_help)) | {"GOUMEM_SOCKET"}


def check_goumemctl(command, where):
    """The first word that is no flag nor a flag's value is a command."""
    words = iter(command)
    check(next(words) == "goumemctl", f"{where}: {command}")
    for word in words:
        if word in ("--timeout", "--socket", "-o"):
            next(words)
        elif not word.startswith("-"):
            check(word in commands, f"{where}: goumemctl has no command {word}")
            return
    check(False, f"{where}: no command in {command}")


def check_goumemd(args, where):
    for arg in args:
        if arg.startswith("--"):
            check(re.search(rf"{arg}\b", goumemd_help), f"{where}: goumemd has no {arg}")


def dockerfile():
    text = re.sub(r"\\\n", " ", "\n".join(l for l in open("Dockerfile").read().split("\n") if not l.startswith("#")))
    lines = [line.split(None, 1) for line in text.split("\n") if line.strip()]
    known = {"FROM", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "ENV", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"}
    for word, _ in lines:
        check(word in known, f"Dockerfile: {word}")
    final = lines[max(i for i, (word, _) in enumerate(lines) if word == "FROM"):]
    of = lambda word: [rest for other, rest in final if other == word]
    check(of("USER") and re.fullmatch(r"[1-9]\d*:[1-9]\d*", of("USER")[-1]), "Dockerfile: USER is not a number above 0")
    uid = of("USER")[-1].split(":")[0]
    check(any(f"--uid {uid} " in run for run in of("RUN")), "Dockerfile: USER is not the user that is made")
    check(of("ENTRYPOINT") == ['["goumemd"]'], "Dockerfile: ENTRYPOINT")
    health = yaml.safe_load(of("HEALTHCHECK")[0].split("CMD", 1)[1])
    check_goumemctl(health, "HEALTHCHECK")
    for env in of("ENV"):
        for name in re.findall(r"(\w+)=", env):
            check(name in variables, f"Dockerfile: goumemd knows no {name}")
    for copy in of("COPY"):
        if "--from" not in copy:
            for source in copy.split()[:-1]:
                try:
                    open(source).close()
                except OSError as error:
                    check(False, f"Dockerfile: COPY {source}: {error}")


def keys(mapping, allowed, where):
    for key in mapping:
        check(key in allowed, f"{where}: unknown field {key}")


def compose():
    tree = yaml.safe_load(open("packaging/docker/compose.yaml"))
    keys(tree, {"services", "volumes"}, "compose")
    for name, service in tree["services"].items():
        keys(service, {"build", "image", "command", "entrypoint", "volumes", "network_mode", "read_only", "cap_drop",
                       "security_opt", "mem_limit", "stop_grace_period", "ulimits", "user", "depends_on"}, name)
        check(service["volumes"] == ["sockets:/run/goumem"], f"{name}: shares more than the sockets' directory")
        for other in service.get("depends_on", {}):
            check(other in tree["services"], f"{name}: no service {other}")
    check_goumemd(tree["services"]["goumemd"]["command"], "compose")
    check("mem_limit" in tree["services"]["goumemd"], "compose: goumemd has no limit")
    check_goumemctl(tree["services"]["reader"]["entrypoint"], "compose")


CONTAINER = {"name", "image", "command", "args", "env", "securityContext", "resources", "startupProbe", "readinessProbe",
             "livenessProbe", "volumeMounts"}
POD = {"automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext", "initContainers", "containers",
       "volumes", "restartPolicy"}
SECURITY = {"runAsNonRoot", "runAsUser", "runAsGroup", "seccompProfile", "allowPrivilegeEscalation",
            "readOnlyRootFilesystem", "capabilities"}
PROBE = {"exec", "periodSeconds", "timeoutSeconds", "failureThreshold"}
VOLUME = {"name", "hostPath", "emptyDir"}


def pod(spec, where):
    keys(spec, POD, where)
    keys(spec["securityContext"], SECURITY, where)
    check(spec["securityContext"]["runAsNonRoot"] is True, f"{where}: may be root")
    volumes = {volume["name"] for volume in spec["volumes"]}
    for volume in spec["volumes"]:
        keys(volume, VOLUME, where)
    for container in spec.get("initContainers", []) + spec["containers"]:
        name = f"{where}/{container['name']}"
        keys(container, CONTAINER, name)
        keys(container["securityContext"], SECURITY, name)
        check(container["securityContext"]["allowPrivilegeEscalation"] is False, f"{name}: may gain privileges")
        check(container["securityContext"]["capabilities"]["drop"] == ["ALL"], f"{name}: has capabilities")
        check({"requests", "limits"} == set(container["resources"]), f"{name}: requests and limits")
        check("memory" in container["resources"]["limits"], f"{name}: no memory limit")
        for mount in container["volumeMounts"]:
            keys(mount, {"name", "mountPath", "readOnly"}, name)
            check(mount["name"] in volumes, f"{name}: no volume {mount['name']}")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            if probe in container:
                keys(container[probe], PROBE, f"{name}/{probe}")
                check_goumemctl(container[probe]["exec"]["command"], f"{name}/{probe}")


def kubernetes():
    for tree in yaml.safe_load_all(open("packaging/kubernetes/daemonset.yaml")):
        where = f"{tree['kind']} {tree['metadata']['name']}"
        keys(tree, {"apiVersion", "kind", "metadata", "spec"}, where)
        keys(tree["metadata"], {"name", "namespace", "labels"}, where)
        if tree["kind"] == "DaemonSet":
            check(tree["apiVersion"] == "apps/v1", f"{where}: apiVersion")
            keys(tree["spec"], {"selector", "updateStrategy", "template"}, where)
            template = tree["spec"]["template"]
            check(tree["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items(),
                  f"{where}: the selector does not match its pods")
            pod(template["spec"], where)
            daemon = template["spec"]["containers"][0]
            check_goumemd(daemon["args"], where)
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                check(probe in daemon, f"{where}: no {probe}")
        elif tree["kind"] == "Pod":
            pod(tree["spec"], where)
            check_goumemctl(tree["spec"]["containers"][0]["command"], where)


dockerfile()
compose()
kubernetes()
print("\n".join(bad) or "containers: Dockerfile, compose file and manifests hold")
sys.exit(bool(bad))
