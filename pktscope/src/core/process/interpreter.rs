//! Which script an interpreter runs, from its arguments alone.
//!
//! In: the interpreter's path and its arguments. Out: the script as it was written there, never resolved or opened:
//! that needs the process's working directory.

/// What an interpreter was told to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program<'a> {
    /// A file, as written on the command line.
    File(&'a str),
    /// A module or class that the interpreter finds by itself, with the option that says so.
    Module {
        /// The option, for example `-m`; empty where it is an operand.
        option: &'a str,
        /// The module's name.
        name: &'a str,
    },
    /// Code on the command line itself.
    Inline {
        /// The option, for example `-c`; empty where it is an operand.
        option: &'a str,
        /// The code.
        code: &'a str,
    },
}

/// What the first argument that is no option means.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Operand {
    File,
    Code,
    /// A class name, or a source file.
    Class,
}

/// How an interpreter reads its options. A list holds single letters and whole words without their leading dash.
struct Syntax {
    names: &'static [&'static str],
    /// Options whose value is code.
    code: &'static [&'static str],
    /// Options whose value is a module.
    module: &'static [&'static str],
    /// Options whose value is the script.
    file: &'static [&'static str],
    /// Options with another value, attached or the next argument.
    valued: &'static [&'static str],
    /// Letters whose value is only ever attached.
    attached: &'static str,
    /// Whether letters may share a dash.
    has_clusters: bool,
    operand: Operand,
    /// Words before the options that mean "run".
    subcommands: &'static [&'static str],
    /// Whether the code option takes no value but makes the first operand code, as POSIX shells do.
    code_is_operand: bool,
}

const PLAIN: Syntax = Syntax {
    names: &[],
    code: &[],
    module: &[],
    file: &[],
    valued: &[],
    attached: "",
    has_clusters: true,
    operand: Operand::File,
    subcommands: &[],
    code_is_operand: false,
};

/// From each interpreter's manual page or `--help`: python(1), sh(1p) and bash(1), perlrun(1), ruby(1), node(1), php(1),
/// java(1), lua(1), tclsh(1), expect(1), gawk(1), Rscript(1), `deno run --help`, `bun --help`, pwsh(1).
const SYNTAXES: &[Syntax] = &[
    Syntax {
        names: &["python", "pypy"],
        code: &["c"],
        module: &["m"],
        valued: &["W", "X", "Q", "-check-hash-based-pycs"],
        ..PLAIN
    },
    Syntax {
        names: &["sh", "bash", "dash", "ash", "ksh", "mksh", "zsh", "rbash", "yash"],
        code: &["c"],
        valued: &["o", "O", "-rcfile", "-init-file"],
        code_is_operand: true,
        ..PLAIN
    },
    Syntax { names: &["fish"], code: &["c", "-command"], valued: &["C", "d", "o", "-init-command"], ..PLAIN },
    Syntax { names: &["perl"], code: &["e", "E"], valued: &["I"], attached: "MmixCDFVl0", ..PLAIN },
    Syntax { names: &["ruby"], code: &["e"], valued: &["r", "I", "C", "E"], attached: "KxFTiW0", ..PLAIN },
    Syntax {
        names: &["node", "nodejs"],
        code: &["e", "p", "pe", "-eval", "-print"],
        valued: &[
            "r",
            "C",
            "-require",
            "-import",
            "-loader",
            "-experimental-loader",
            "-conditions",
            "-env-file",
            "-title",
            "-inspect-port",
            "-input-type",
        ],
        has_clusters: false,
        ..PLAIN
    },
    Syntax {
        names: &["php"],
        code: &["r", "R", "B", "E", "-run"],
        file: &["f", "F", "-file"],
        valued: &["d", "c", "z", "S", "t", "-define", "-php-ini", "-server", "-docroot"],
        ..PLAIN
    },
    Syntax {
        names: &["java"],
        module: &["m", "-module"],
        file: &["jar"],
        valued: &["cp", "classpath", "p", "-class-path", "-module-path", "-add-modules", "-add-opens", "-add-exports"],
        has_clusters: false,
        operand: Operand::Class,
        ..PLAIN
    },
    Syntax { names: &["lua", "luajit", "texlua"], code: &["e"], valued: &["l"], ..PLAIN },
    Syntax { names: &["tclsh", "wish"], valued: &["encoding"], has_clusters: false, ..PLAIN },
    Syntax { names: &["expect"], code: &["c"], file: &["f"], attached: "D", ..PLAIN },
    Syntax {
        names: &["awk", "gawk", "mawk", "nawk"],
        file: &["f", "E", "-file", "-exec"],
        valued: &["F", "v", "i", "l", "-assign", "-field-separator", "-include", "-load"],
        operand: Operand::Code,
        ..PLAIN
    },
    Syntax { names: &["Rscript"], code: &["e"], has_clusters: false, ..PLAIN },
    Syntax {
        names: &["deno"],
        code: &["-eval"],
        valued: &["c", "-config", "-import-map"],
        has_clusters: false,
        subcommands: &["run"],
        ..PLAIN
    },
    Syntax {
        names: &["bun"],
        code: &["e", "-eval"],
        valued: &["r", "c", "-preload", "-config", "-cwd"],
        has_clusters: false,
        subcommands: &["run"],
        ..PLAIN
    },
    Syntax {
        names: &["pwsh"],
        code: &["c", "Command", "command"],
        file: &["f", "File", "file"],
        valued: &["ExecutionPolicy", "ep", "ex", "WorkingDirectory", "wd"],
        has_clusters: false,
        ..PLAIN
    },
];

/// Programs that are many programs in one and go by the name they were called with.
const MULTI_CALL: &[&str] = &["busybox", "toybox"];

/// Whether a program of this path runs scripts.
pub fn is_interpreter(executable: &str) -> bool {
    syntax_of(executable).is_some() || MULTI_CALL.contains(&file_name(executable))
}

/// The program that an interpreter at `executable` was told to run by `arguments`, of which the first is its own name.
///
/// `None` where the executable is no interpreter that is known here, or reads its program from standard input.
pub fn program_of<'a>(executable: &str, arguments: &[&'a str]) -> Option<Program<'a>> {
    let (own_name, mut rest) = arguments.split_first()?;
    let mut name = executable;
    if MULTI_CALL.contains(&file_name(executable)) {
        name = own_name;
        if MULTI_CALL.contains(&file_name(own_name)) {
            (name, rest) = rest.split_first().map(|(applet, rest)| (*applet, rest))?;
        }
    }
    syntax_of(name)?.read(rest)
}

/// The script of a `#!` file, from the arguments that the kernel made (fs/binfmt_script.c, load_script): interpreter, at
/// most one option, script; the script stands there just as it was given to `execve`.
pub fn is_script_run(filename: &str, arguments: &[&str]) -> bool {
    let is_named = |index: usize| arguments.get(index).is_some_and(|argument| *argument == filename);
    !filename.is_empty() && !is_named(0) && (is_named(1) || is_named(2))
}

fn file_name(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    // A login shell's own name starts with a dash (login(1)).
    name.strip_prefix('-').unwrap_or(name)
}

/// Without a version at the end: `python3.11` is `python`.
fn family(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.')
}

fn syntax_of(executable: &str) -> Option<&'static Syntax> {
    let name = file_name(executable);
    SYNTAXES.iter().find(|syntax| syntax.names.iter().any(|known| *known == name || *known == family(name)))
}

/// What an option asks for.
enum Wanted {
    Nothing,
    Skip,
    Code,
    Module,
    File,
}

impl Syntax {
    fn read<'a>(&self, arguments: &[&'a str]) -> Option<Program<'a>> {
        let mut rest = arguments.iter().copied().peekable();
        if rest.peek().is_some_and(|word| self.subcommands.contains(word)) {
            rest.next();
        }
        let mut code_option = None;
        while let Some(argument) = rest.next() {
            if argument == "--" {
                return self.operand(code_option, rest.next()?);
            }
            if argument == "-" {
                return None;
            }
            // A shell also takes `+o option`.
            let Some(option) = argument.strip_prefix('-').or_else(|| self.strip_plus(argument)) else {
                return self.operand(code_option, argument);
            };
            let (wanted, attached) = self.wanted(option);
            if self.code_is_operand && matches!(wanted, Wanted::Code) {
                code_option = Some(argument);
                continue;
            }
            let value = match wanted {
                Wanted::Nothing => continue,
                _ if attached.is_empty() => rest.next()?,
                _ => attached,
            };
            match wanted {
                Wanted::Code => return Some(Program::Inline { option: argument, code: value }),
                Wanted::Module => return Some(Program::Module { option: argument, name: value }),
                Wanted::File => return Some(Program::File(value)),
                Wanted::Skip | Wanted::Nothing => {}
            }
        }
        None
    }

    fn strip_plus<'a>(&self, argument: &'a str) -> Option<&'a str> {
        if self.code_is_operand { argument.strip_prefix('+') } else { None }
    }

    fn operand<'a>(&self, code_option: Option<&'a str>, value: &'a str) -> Option<Program<'a>> {
        Some(match (code_option, self.operand) {
            (Some(option), _) => Program::Inline { option, code: value },
            (None, Operand::Code) => Program::Inline { option: "", code: value },
            (None, Operand::Class) if !value.ends_with(".java") => Program::Module { option: "", name: value },
            (None, _) => Program::File(value),
        })
    }

    /// What an option without its dash wants, and the value attached to it.
    fn wanted<'a>(&self, option: &'a str) -> (Wanted, &'a str) {
        if !self.has_clusters || option.starts_with('-') {
            let (word, value) = option.split_once('=').unwrap_or((option, ""));
            return (self.kind(word), value);
        }
        for (at, letter) in option.char_indices() {
            let value = &option[at + letter.len_utf8()..];
            if self.attached.contains(letter) {
                return (Wanted::Nothing, "");
            }
            match self.kind(&option[at..at + letter.len_utf8()]) {
                Wanted::Nothing => {}
                // `-ec` in a shell is two flags: the code is an operand.
                Wanted::Code if self.code_is_operand => return (Wanted::Code, ""),
                wanted => return (wanted, value),
            }
        }
        (Wanted::Nothing, "")
    }

    fn kind(&self, word: &str) -> Wanted {
        match () {
            () if self.code.contains(&word) => Wanted::Code,
            () if self.module.contains(&word) => Wanted::Module,
            () if self.file.contains(&word) => Wanted::File,
            () if self.valued.contains(&word) => Wanted::Skip,
            () => Wanted::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, expected: Option<Program<'_>>) {
        let arguments: Vec<&str> = command.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
        assert_eq!(program_of(arguments[0], &arguments), expected, "{command}");
    }

    fn file(path: &str) -> Option<Program<'_>> {
        Some(Program::File(path))
    }

    fn inline<'a>(option: &'a str, code: &'a str) -> Option<Program<'a>> {
        Some(Program::Inline { option, code })
    }

    fn module<'a>(option: &'a str, name: &'a str) -> Option<Program<'a>> {
        Some(Program::Module { option, name })
    }

    #[test]
    fn the_script_is_found_behind_the_options() {
        check("/usr/bin/python3.11 beacon.py --port 1", file("beacon.py"));
        check("python3 -u -W ignore -X dev /opt/a.py", file("/opt/a.py"));
        check("python3 -Wignore a.py -c x", file("a.py"));
        check("python3 -- -odd.py", file("-odd.py"));
        check("bash -e -o pipefail run.sh", file("run.sh"));
        check("bash +o history --rcfile /dev/null run.sh", file("run.sh"));
        check("-bash run.sh", file("run.sh"));
        check("perl -w -Mstrict -I lib -Ilib2 x.pl", file("x.pl"));
        check("ruby3.1 -r json -W0 x.rb", file("x.rb"));
        check("node --max-old-space-size=100 -r ./hook.js server.js", file("server.js"));
        check("php8.2 -d memory_limit=1G -f x.php", file("x.php"));
        check("java -Xmx1g -cp lib/a.jar -jar app.jar -c x", file("app.jar"));
        check("java Hello.java", file("Hello.java"));
        check("awk -F : -f prog.awk data", file("prog.awk"));
        check("deno run --allow-net main.ts", file("main.ts"));
        check("tclsh8.6 x.tcl", file("x.tcl"));
        check("pwsh -NoProfile -File x.ps1", file("x.ps1"));
    }

    #[test]
    fn code_on_the_command_line_is_no_file() {
        check("python3 -c import(os) a.py", inline("-c", "import(os)"));
        check("python3 -Ic code", inline("-Ic", "code"));
        check("sh -c id arg0", inline("-c", "id"));
        check("bash -ec -x true", inline("-ec", "true"));
        check("bash -c -- -odd", inline("-c", "-odd"));
        check("perl -ne print x", inline("-ne", "print"));
        check("ruby -e puts", inline("-e", "puts"));
        check("node --eval=1 x.js", inline("--eval=1", "1"));
        check("php -r echo", inline("-r", "echo"));
        check("gawk -v a=1 {print} f", inline("", "{print}"));
    }

    #[test]
    fn modules_are_named_as_modules() {
        check("python3 -m http.server 80", module("-m", "http.server"));
        check("python3 -mvenv x", module("-mvenv", "venv"));
        check("java -cp a.jar com.example.Main x", module("", "com.example.Main"));
        check("java -m app/com.example.Main", module("-m", "app/com.example.Main"));
    }

    #[test]
    fn standard_input_and_other_programs_name_nothing() {
        check("python3", None);
        check("python3 -", None);
        check("bash -s", None);
        check("python3 -c", None);
        check("curl -c jar http://x", None);
        check("pythonic x.py", None);
        assert_eq!(program_of("/usr/bin/python3", &[]), None);
    }

    #[test]
    fn a_multi_call_program_goes_by_its_name() {
        assert_eq!(program_of("/bin/busybox", &["sh", "x.sh"]), file("x.sh"));
        assert_eq!(program_of("/bin/busybox", &["busybox", "ash", "x.sh"]), file("x.sh"));
        assert_eq!(program_of("/bin/busybox", &["wget", "x.sh"]), None);
    }

    #[test]
    fn the_kernels_rewriting_of_a_script_is_recognised() {
        assert!(is_script_run("./x.py", &["/usr/bin/python3", "./x.py"]));
        assert!(is_script_run("./x.py", &["/usr/bin/env", "python3", "./x.py", "a"]));
        assert!(!is_script_run("/usr/bin/python3", &["python3", "x.py"]));
        assert!(!is_script_run("", &["", ""]));
    }

    proptest::proptest! {
        #[test]
        fn no_arguments_panic(executable in "(/usr/bin/)?(python3|sh|perl|java|node|busybox|.*)", arguments in proptest::collection::vec(".*", 0..6)) {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let _ = program_of(&executable, &arguments);
        }
    }
}
