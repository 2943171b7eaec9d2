//! Where Waymark's other programs are: beside this one, unless the user says otherwise.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The folder with Waymark's programs.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    this: PathBuf,
}

impl Programs {
    /// Looks into `folder`, or into the folder of this program.
    pub fn find(folder: Option<PathBuf>) -> Result<Self> {
        let this = std::env::current_exe().map_err(Error::file("find", "/proc/self/exe"))?;
        let own = this.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { folder: folder.unwrap_or(own), this })
    }

    /// This program.
    pub fn this(&self) -> &Path {
        &self.this
    }

    /// Whether they are all there.
    pub fn all_there(&self) -> Result<()> {
        self.controller()?;
        self.agent()?;
        self.client()?;
        Ok(())
    }

    /// The node agent.
    pub fn agent(&self) -> Result<PathBuf> {
        self.program("waymark-agent")
    }

    /// The controller.
    pub fn controller(&self) -> Result<PathBuf> {
        self.program("waymark-controller")
    }

    /// The client.
    pub fn client(&self) -> Result<PathBuf> {
        self.program("waymark")
    }

    fn program(&self, name: &str) -> Result<PathBuf> {
        let path = self.folder.join(name);
        match std::fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(Error::Spawn {
                program: path.display().to_string(),
                source,
                remedy: "build it with `cargo build --workspace`, or name its folder with --bin-dir",
            }),
        }
    }
}
