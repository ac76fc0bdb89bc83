//! Nix in a volume: a store is built in it, the volume is forked, and the store is whole and goes
//! on in the fork.

use std::fs;
use std::path::{Path, PathBuf};

use sandstone_tests::{Disk, Mount, Program, Server, Volume, needs_disks};
use serde_json::Value;

/// A program with a dependency, and with an interpreter that is a file from outside: a closure of
/// three. Needs nothing but the shell, so nothing of it comes from a network.
const GREETER: &str = r#"
let
  build = name: words: script: derivation ({
    inherit name;
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-e" (builtins.toFile "${name}.sh" script) ];
  } // words);
in rec {
  table = build "table" { } "seq 1 200000 > $out";
  program = name: word: build name { inherit name word table; bash = /bin/bash; } ''
    mkdir -p $out/bin
    printf '#! %s\necho %s, $(tail -n 1 %s)\n' $bash $word $table > $out/bin/$name
    chmod +x $out/bin/$name
  '';
  hello = program "hello" "hello";
  goodbye = program "goodbye" "goodbye";
}
"#;

/// A Nix that keeps all it has below `root`, alone: no daemon, no users to build as, no sandbox, no
/// network.
struct Nix {
    root: PathBuf,
    home: PathBuf,
    expression: PathBuf,
}

impl Nix {
    fn new(server: &Server, root: &Path) -> Self {
        let expression = server.scratch("greeter.nix");
        fs::write(&expression, GREETER).expect("a file can be written");
        let home = server.dir().join("nix-home");
        fs::create_dir(&home).expect("a directory can be made");
        Self { root: root.to_owned(), home, expression }
    }

    fn program(&self, name: &str) -> Program {
        Program::new(name)
            .env("NIX_STORE_DIR", self.root.join("nix/store"))
            .env("NIX_STATE_DIR", self.root.join("nix/var/nix"))
            .env("NIX_LOG_DIR", self.root.join("nix/var/log/nix"))
            .env("NIX_REMOTE", "local")
            .env("NIX_CONF_DIR", &self.home)
            .env("NIX_CONFIG", "build-users-group =\nsandbox = false\nsubstitute = false")
            .env("NIX_PATH", "")
            .env("HOME", &self.home)
    }

    /// Builds one of the programs, keeps it from Nix's own garbage collection, and says what else
    /// was built for it.
    fn build(&self, name: &str) -> (PathBuf, String) {
        let link = self.root.join(name);
        let built =
            self.program("nix-build").arg(&self.expression).args(["-A", name, "-o"]).arg(link).ok();
        (PathBuf::from(built.stdout.trim()), built.stderr)
    }

    /// Insists that the database and every file of the store agree.
    fn verify(&self) {
        self.program("nix-store").args(["--verify", "--check-contents"]).ok();
    }
}

/// What a program of the store says.
fn said_by(store_path: &Path, name: &str) -> String {
    Program::new(store_path.join("bin").join(name)).ok().stdout
}

fn unmount_and_detach(mount: Mount, disk: Disk) {
    mount.unmount();
    Program::new("e2fsck").args(["-f", "-n", disk.device()]).ok();
    disk.detach();
}

fn forked(answer: &Value) -> Volume {
    Volume {
        id: answer["id"].as_str().expect("a fork has an id").to_owned(),
        size_bytes: answer["size_bytes"].as_u64().expect("a fork has a size"),
    }
}

#[test]
fn store_built_in_a_volume_is_whole_in_its_fork_and_goes_on_there() {
    if !needs_disks(&["nix-build", "nix-store", "mkfs.ext4", "e2fsck"]) {
        return;
    }
    let server = Server::start();
    // Store paths are absolute, so whoever uses the store mounts it here.
    let home = server.dir().join("sandbox");
    let nix = Nix::new(&server, &home);

    let source = server.create_volume(&serde_json::json!({ "name": "toolbox", "size": "256M" }));
    let disk = Disk::attach(&server, &source);
    Program::new("mkfs.ext4").args(["-q", "-F", disk.device()]).ok();
    let mount = Mount::new(disk.device(), &home);
    let (hello, said) = nix.build("hello");
    assert!(
        hello.starts_with(home.join("nix/store")) && said.contains("-table.drv"),
        "{hello:?}: {said}"
    );
    assert_eq!(said_by(&hello, "hello"), "hello, 200000\n");
    let closure =
        nix.program("nix-store").args(["--query", "--requisites"]).arg(&hello).ok().stdout;
    assert_eq!(closure.lines().count(), 3, "{closure}");
    nix.verify();
    unmount_and_detach(mount, disk);
    assert!(!hello.exists(), "what is looked at is not in the volume");

    server.cli(["snapshot", "create", "toolbox", "--name", "built"]).ok();
    let fork = ["fork", "toolbox", "--snapshot", "built", "--name", "agent", "--json"];
    let fork = forked(&server.cli(fork).ok().json());

    // The fork is where its source was: whole, usable, and what was built is not built again.
    let disk = Disk::attach(&server, &fork);
    let mount = Mount::new(disk.device(), &home);
    nix.verify();
    assert_eq!(said_by(&hello, "hello"), "hello, 200000\n");
    let (goodbye, said) = nix.build("goodbye");
    assert!(said.contains("-goodbye.drv") && !said.contains("-table.drv"), "{said}");
    assert_eq!(said_by(&goodbye, "goodbye"), "goodbye, 200000\n");
    nix.verify();

    // Beside it, somewhere else, the source has the first program only.
    let source_disk = Disk::attach(&server, &source);
    let beside = server.dir().join("beside");
    let source_mount = Mount::read_only(source_disk.device(), &beside);
    let there =
        |path: &Path| beside.join(path.strip_prefix(&home).expect("a path of the store")).exists();
    assert!(there(&hello) && !there(&goodbye), "the source has what was built in its fork");
    unmount_and_detach(source_mount, source_disk);
    unmount_and_detach(mount, disk);

    // And to the source's own Nix nothing has happened.
    let disk = Disk::attach(&server, &source);
    let mount = Mount::new(disk.device(), &home);
    nix.verify();
    assert_eq!(said_by(&hello, "hello"), "hello, 200000\n");
    let known = nix.program("nix-store").args(["--query", "--hash"]).arg(&goodbye).run();
    assert!(
        !known.status.success(),
        "the source's database knows what was built in its fork: {known}"
    );
    unmount_and_detach(mount, disk);
}
