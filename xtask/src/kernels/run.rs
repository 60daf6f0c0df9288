//! `cargo xtask kernels`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;

use super::{Kernel, Selection, step};
use crate::{ci, e2e, toolchain};

/// Arguments of `kernels`.
#[derive(Args)]
pub struct KernelArguments {
    /// The series to boot, such as 5.10 or newest; all where none is named
    series: Vec<String>,
    /// Filters and options of the test program in each guest; every test where there are none
    #[arg(last = true)]
    test_arguments: Vec<String>,
}

/// Boots the kernels and prints what came of each.
pub fn run(arguments: &KernelArguments) -> Result<ExitCode> {
    let kernels = chosen(&arguments.series)?;
    let programs = e2e::build(&toolchain::ensure()?)?;
    Ok(ci::conclude(&step::steps(&kernels, &programs, &Selection::of(&arguments.test_arguments))))
}

fn chosen(series: &[String]) -> Result<Vec<Kernel>> {
    let all = Kernel::all();
    if let Some(unknown) = series.iter().find(|name| !all.iter().any(|kernel| kernel.series == name.as_str())) {
        let known: Vec<_> = all.iter().map(|kernel| kernel.series).collect();
        bail!("there is no kernel {unknown} to boot: there are {}", known.join(", "));
    }
    let is_chosen = |kernel: &Kernel| series.is_empty() || series.iter().any(|name| name == kernel.series);
    Ok(all.into_iter().filter(is_chosen).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_series() {
        assert_eq!(chosen(&[]).unwrap().len(), 4);
        assert_eq!(chosen(&["newest".into(), "5.10".into()]).unwrap(), Kernel::extremes());
        assert!(chosen(&["2.4".into()]).unwrap_err().to_string().contains("5.10"));
    }
}
