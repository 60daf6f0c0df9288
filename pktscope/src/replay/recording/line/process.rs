//! The process that a line names.

use std::sync::Arc;

use super::{PackagePart, ProcessPart, ScriptPart, Text, boot, nanoseconds};
use crate::core::{
    process::{ImageHash, Package, Process, ProcessKey, Script},
    time::BootTime,
};

/// Why a recorded process has no hash, where the line does not say.
const NO_HASH: &str = "not in the recording";

/// Fixed seeds: the digest only finds candidates, which are then compared.
const DIGEST: ahash::RandomState = ahash::RandomState::with_seeds(1, 2, 3, 4);

impl ProcessPart<'_> {
    /// A number that lines about the same process share.
    pub(in crate::replay::recording) fn digest(&self) -> u64 {
        let hash = self.hash.as_ref().and_then(|hash| hash.sha256.as_deref());
        DIGEST.hash_one((self.pid, self.entity_id.as_deref(), self.executable.as_deref(), hash))
    }

    /// Whether a process built earlier says the same as this line.
    pub(in crate::replay::recording) fn describes(&self, process: &Process) -> bool {
        let is_same = |part: &Text<'_>, value: &str| part.as_deref().unwrap_or("") == value;
        is_same(&self.executable, &process.executable)
            && process.key == self.key()
            && self.has_hash(&process.hash)
            && is_same(&self.entity_id, &process.entity_id)
            && is_same(&self.command_line, &process.command_line)
            && self.package.is_some() == process.package.is_some()
            && self.script().and_then(ScriptPart::script) == process.script
    }

    fn script(&self) -> Option<&ScriptPart<'_>> {
        self.extra.as_ref()?.script.as_ref()
    }

    fn hash_error(&self) -> &str {
        self.extra.as_ref().and_then(|extra| extra.hash_error.as_deref()).unwrap_or(NO_HASH)
    }

    fn key(&self) -> ProcessKey {
        let exact = self.extra.as_ref().and_then(|extra| extra.started_at).map(BootTime);
        let started_at = exact.or_else(|| self.start.as_deref().and_then(nanoseconds).map(boot)).unwrap_or_default();
        ProcessKey { pid: self.pid, started_at }
    }

    fn is_hash_pending(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.is_hash_pending)
    }

    fn has_hash(&self, hash: &ImageHash) -> bool {
        match (self.hash.as_ref().and_then(|hash| hash.sha256.as_deref()), hash) {
            (Some(own), ImageHash::Sha256(known)) => own == &**known,
            (None, ImageHash::Unreadable(reason)) => !self.is_hash_pending() && &**reason == self.hash_error(),
            (None, ImageHash::Pending) => self.is_hash_pending(),
            (Some(_), ImageHash::Pending | ImageHash::Unreadable(_)) | (None, ImageHash::Sha256(_)) => false,
        }
    }

    fn image_hash(&self) -> ImageHash {
        match self.hash.as_ref().and_then(|hash| hash.sha256.as_deref()) {
            Some(sha256) => ImageHash::Sha256(sha256.into()),
            None if self.is_hash_pending() => ImageHash::Pending,
            None => ImageHash::Unreadable(self.hash_error().into()),
        }
    }

    /// The process, as far as the line has it.
    pub(in crate::replay::recording) fn build(&self) -> Process {
        let shared = |text: &Text<'_>| text.as_deref().map(Arc::<str>::from);
        let image = self.container.as_ref().and_then(|container| shared(&container.image.as_ref()?.name));
        Process {
            key: self.key(),
            entity_id: shared(&self.entity_id).unwrap_or_default(),
            comm: shared(&self.name).unwrap_or_default(),
            executable: shared(&self.executable).unwrap_or_default(),
            hash: self.image_hash(),
            package: self
                .package
                .as_ref()
                .and_then(|package| package.package(self.extra.as_ref().and_then(|extra| extra.package_is_unmodified))),
            script: self.script().and_then(ScriptPart::script),
            command_line: shared(&self.command_line).unwrap_or_default(),
            uid: self.uid,
            user: shared(&self.user),
            parent_executable: self.parent.as_ref().and_then(|parent| shared(&parent.executable)),
            container_id: self.container.as_ref().and_then(|container| shared(&container.id)),
            container_image: image,
            cgroup_path: shared(&self.cgroup_path),
            is_agent: self.extra.as_ref().is_some_and(|extra| extra.is_agent),
            ..Process::default()
        }
    }
}

impl PackagePart<'_> {
    fn package(&self, is_unmodified: Option<bool>) -> Option<Arc<Package>> {
        let manager = match self.manager.as_deref()? {
            "dpkg" => "dpkg",
            "rpm" => "rpm",
            "apk" => "apk",
            "image" => "image",
            _ => return None,
        };
        Some(Arc::new(Package {
            manager,
            name: self.name.as_deref()?.into(),
            version: self.version.as_deref().unwrap_or("").into(),
            is_unmodified,
        }))
    }
}

impl ScriptPart<'_> {
    fn script(&self) -> Option<Arc<Script>> {
        let hash = match (&self.sha256, &self.hash_error) {
            (Some(sha256), _) => ImageHash::Sha256(sha256.as_ref().into()),
            (None, Some(reason)) => ImageHash::Unreadable(reason.as_ref().into()),
            (None, None) => ImageHash::Pending,
        };
        let package = self.package.as_ref().and_then(|package| package.package(self.package_is_unmodified));
        Some(Arc::new(Script { path: self.path.as_deref()?.into(), hash, package }))
    }
}
