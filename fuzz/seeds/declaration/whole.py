import mvm

PACKAGES = ["nodejs", "git"]
PORT: int = 8_000

@mvm.app(
    name="web",
    source=mvm.local_path(".", include=["**/*.py"], exclude=("tests/**",)),
    image=mvm.debian(packages=PACKAGES),  # comments are anywhere
    resources=mvm.resources(cpus=2, memory_mib=0x200, disk_mib=4_096),
    network=mvm.network(mode="deny", ports=[mvm.port(guest=PORT, host=(8080))]),
    env={"LANG": mvm.literal("\x43\n"), "TOKEN": mvm.secret("env:" 'TOKEN'), "A/B": mvm.literal(r"a\b")},
    entrypoint=mvm.entrypoint_function(module="app", function="serve"),
    profile="standard",
    ttl=3600.5,
    on_expiry="destroy",
)
async def serve(): ...
