//! Names of the images that containers were made from, from the runtimes' own files.

use std::{
    fs::File,
    io::Read,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
};

use lru::LruCache;
use serde_json::Value;

/// Containers whose image is remembered, also that there is no name for it.
const MAX_CONTAINERS: NonZeroUsize = NonZeroUsize::new(1024).expect("not zero");

/// The most that is read of a runtime's file, in bytes; Podman's list has about 1 KiB for each container.
const MAX_READ_BYTES: u64 = 16 << 20;

/// Namespaces of containerd: of the kubelet, Docker, nerdctl.
const CONTAINERD: [&str; 3] = ["k8s.io", "moby", "default"];

/// Where containerd keeps running tasks (its runtime v2 shim's bundle).
const TASKS: &str = "run/containerd/io.containerd.runtime.v2.task";

/// Annotations with the image's name: of containerd's CRI plugin, CRI-O, nerdctl.
const ANNOTATIONS: [&str; 3] = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "nerdctl/image-name"];

/// Image names by container id.
pub struct ContainerImages {
    root: PathBuf,
    known: LruCache<Arc<str>, Option<Arc<str>>>,
}

impl ContainerImages {
    /// The containers of the host with this root directory.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), known: LruCache::new(MAX_CONTAINERS) }
    }

    /// The name of a container's image, as it was asked for when the container was made.
    pub fn name(&mut self, id: &Arc<str>) -> Option<Arc<str>> {
        if let Some(known) = self.known.get(id) {
            return known.clone();
        }
        let name: Option<Arc<str>> = self.read(id).map(Arc::from);
        self.known.put(id.clone(), name.clone());
        name
    }

    fn read(&self, id: &str) -> Option<String> {
        self.docker(id).or_else(|| self.annotated(id)).or_else(|| self.podman(id))
    }

    fn docker(&self, id: &str) -> Option<String> {
        let config = self.json(&format!("var/lib/docker/containers/{id}/config.v2.json"))?;
        text(&config["Config"]["Image"])
    }

    /// The OCI bundle's own configuration, of containerd and of CRI-O.
    fn annotated(&self, id: &str) -> Option<String> {
        let tasks = CONTAINERD.iter().map(|namespace| format!("{TASKS}/{namespace}/{id}/config.json"));
        let crio = format!("run/containers/storage/overlay-containers/{id}/userdata/config.json");
        let configs = tasks.chain([crio]).filter_map(|path| self.json(&path));
        configs.flat_map(|config| ANNOTATIONS.map(|name| text(&config["annotations"][name]))).flatten().next()
    }

    /// The list of containers that Podman and CRI-O share (containers/storage).
    fn podman(&self, id: &str) -> Option<String> {
        let list = self.json("var/lib/containers/storage/overlay-containers/containers.json")?;
        let row = list.as_array()?.iter().find(|row| row["id"] == id)?;
        let metadata: Value = serde_json::from_str(row["metadata"].as_str()?).ok()?;
        text(&metadata["image-name"])
    }

    fn json(&self, path: &str) -> Option<Value> {
        let file = File::open(self.root.join(path)).ok()?;
        let mut bytes = Vec::new();
        file.take(MAX_READ_BYTES).read_to_end(&mut bytes).ok()?;
        serde_json::from_slice(&bytes).ok()
    }
}

fn text(value: &Value) -> Option<String> {
    value.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn check(path: &str, content: &str, expected: Option<&str>) {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mut images = ContainerImages::new(root.path());
        assert_eq!(images.name(&"ab12".into()).as_deref(), expected, "{}", path.display());
        fs::remove_file(&path).unwrap();
        assert_eq!(images.name(&"ab12".into()).as_deref(), expected, "remembered");
    }

    #[test]
    fn each_runtime_names_the_image_in_its_own_file() {
        let docker = r#"{"ID":"ab12","Config":{"Image":"nginx:1.27"},"Image":"sha256:0"}"#;
        check("var/lib/docker/containers/ab12/config.v2.json", docker, Some("nginx:1.27"));
        let cri = r#"{"annotations":{"io.kubernetes.cri.image-name":"registry.k8s.io/pause:3.9"}}"#;
        check(&format!("{TASKS}/k8s.io/ab12/config.json"), cri, Some("registry.k8s.io/pause:3.9"));
        let crio = r#"{"annotations":{"io.kubernetes.cri-o.ImageName":"quay.io/app:2"}}"#;
        check("run/containers/storage/overlay-containers/ab12/userdata/config.json", crio, Some("quay.io/app:2"));
        let podman = r#"[{"id":"ff"},{"id":"ab12","metadata":"{\"image-name\":\"docker.io/library/alpine:3\"}"}]"#;
        let list = "var/lib/containers/storage/overlay-containers/containers.json";
        check(list, podman, Some("docker.io/library/alpine:3"));
        check(list, "not json", None);
        check("var/lib/docker/containers/ab12/config.v2.json", "{}", None);
    }
}
