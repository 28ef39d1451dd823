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
