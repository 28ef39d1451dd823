package sandbox

import (
	"cmp"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The annotations by which container managers of Kubernetes say that a container
// belongs to a sandbox that exists already, and what it is called there. The first of
// each is containerd's, the second CRI-O's.
var (
	annotationsType    = [2]string{"io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"}
	annotationsSandbox = [2]string{"io.kubernetes.cri.sandbox-id", "io.kubernetes.cri-o.SandboxID"}
	annotationsName    = [2]string{"io.kubernetes.cri.container-name", "io.kubernetes.container.name"}
)

// annotationsPod are those by which container managers say which pod a container belongs to. CRI-O sets its after what users may
// annotate pods with, other than the ones above.
var annotationsPod = []string{"io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"}

// samePod says whether a container may join a sandbox, as far as annotations tell: what one pod's say does not bring it into another's.
func samePod(container, sandbox map[string]string) bool {
	for _, name := range annotationsPod {
		if uid := container[name]; uid != "" && uid != sandbox[name] {
			return false
		}
	}
	return true
}

// typeContainer is the type of a container that is not the first of its sandbox.
const typeContainer = "container"

// SandboxOf returns the ID of the sandbox that a specification's container is to
// be made in, or "" for one of its own.
func SandboxOf(spec *specs.Spec) string {
	if annotation(spec, annotationsType) != typeContainer {
		return ""
	}
	return annotation(spec, annotationsSandbox)
}

// nameOf returns what a container manager calls the container within its sandbox,
// or "".
func nameOf(spec *specs.Spec) string { return annotation(spec, annotationsName) }

func annotation(spec *specs.Spec, names [2]string) string {
	return cmp.Or(spec.Annotations[names[0]], spec.Annotations[names[1]])
}
