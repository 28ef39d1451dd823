package dirty

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"gvisor.dev/gvisor/pkg/abi/linux"
	gcontext "gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/cpuid"
	"gvisor.dev/gvisor/pkg/fd"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/gomaxprocs"
	"gvisor.dev/gvisor/pkg/memutil"
	"gvisor.dev/gvisor/pkg/rand"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/sentry/fdimport"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/host"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/tmpfs"
	"gvisor.dev/gvisor/pkg/sentry/inet"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/limits"
	"gvisor.dev/gvisor/pkg/sentry/loader"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	_ "gvisor.dev/gvisor/pkg/sentry/platform/systrap"
	"gvisor.dev/gvisor/pkg/sentry/seccheck"
	_ "gvisor.dev/gvisor/pkg/sentry/syscalls/linux"
	sentrytime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/usage"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/sighandling"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/runsc/boot/filter/config"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

const (
	tortureRoundTime  = 30 * time.Millisecond
	tortureAuditEvery = 3
	containerName     = "torture"
)

// sandbox is the smallest kernel that runs a static program: its root is a
// tmpfs, and it has no network.
type sandbox struct {
	kernel     *kernel.Kernel
	memoryFile *pgalloc.MemoryFile
	tracker    *Tracker
	clockPages *Set // change under a paused kernel
}

// bootSandbox boots a kernel behind a Tracker and starts the program in it.
func bootSandbox(program, argument string, o Options) (*sandbox, error) {
	for _, initialize := range []func() error{rand.Init, usage.Init, sighandling.IgnoreChildStop} {
		if err := initialize(); err != nil {
			return nil, err
		}
	}
	seccheck.Initialize()
	gomaxprocs.SetBase(runtime.NumCPU())
	constructor, err := platform.Lookup("systrap")
	if err != nil {
		return nil, err
	}
	inner, err := constructor.New(platform.Options{})
	if err != nil {
		return nil, err
	}
	memfd, err := memutil.CreateMemFD("torture-memory", 0)
	if err != nil {
		return nil, err
	}
	mf, err := pgalloc.NewMemoryFile(os.NewFile(uintptr(memfd), "torture-memory"), pgalloc.MemoryFileOpts{})
	if err != nil {
		return nil, err
	}
	s := &sandbox{memoryFile: mf, tracker: Wrap(inner, o), clockPages: &Set{}}
	s.tracker.SetMemoryFile(mf)
	if err := s.initKernel(); err != nil {
		return nil, err
	}
	if err := s.createProcess(program, argument); err != nil {
		return nil, err
	}
	return s, s.kernel.Start()
}

func (s *sandbox) initKernel() error {
	k := &kernel.Kernel{Platform: s.tracker}
	s.kernel = k
	k.SetMemoryFile(s.memoryFile)
	vdso, err := loader.PrepareVDSO(s.memoryFile)
	if err != nil {
		return err
	}
	fr := vdso.ParamPage.FileRange()
	s.clockPages.AddRange(fr.Start/pageSize, fr.End/pageSize)
	params := kernel.NewVDSOParamPage(s.memoryFile, fr)
	keeper := kernel.NewTimekeeper()
	keeper.SetClocks(sentrytime.NewCalibratedClocks(), params)
	users := auth.NewRootUserNamespace()
	if err := k.Init(kernel.InitKernelArgs{
		FeatureSet: cpuid.HostFeatureSet().Fixed(), Timekeeper: keeper, RootUserNamespace: users,
		RootNetworkNamespace: inet.NewRootNamespace(nil, nil, users), ApplicationCores: uint(runtime.NumCPU()),
		Vdso: vdso, VdsoParams: params, RootUTSNamespace: kernel.NewUTSNamespace("torture", "", users),
		RootIPCNamespace: kernel.NewIPCNamespace(users), RootPIDNamespace: kernel.NewRootPIDNamespace(users),
		MaxFDLimit: kernel.MaxFdLimit,
	}); err != nil {
		return err
	}
	k.VFS().MustRegisterFilesystemType(tmpfs.Name, &tmpfs.FilesystemType{}, &vfs.RegisterFilesystemTypeOptions{})
	hostFS, err := host.NewFilesystem(k.VFS())
	if err != nil {
		return err
	}
	k.SetHostMount(k.VFS().NewDisconnectedMount(hostFS, nil, &vfs.MountOptions{}))
	k.RegisterContainerName(containerName, containerName)
	return nil
}

func (s *sandbox) createProcess(program, argument string) error {
	k := s.kernel
	l := limits.NewLimitSet()
	l.SetUnchecked(limits.NumberOfFiles, limits.Limit{Cur: 1024, Max: 1024})
	l.SetUnchecked(limits.Stack, limits.Limit{Cur: 8 << 20, Max: limits.Infinity})
	args := kernel.CreateProcessArgs{
		Filename: "/torture", Argv: []string{"torture", argument}, WorkingDirectory: "/", Umask: 0o22, Limits: l,
		Credentials:          auth.NewRootCredentials(k.RootUserNamespace()),
		MaxSymlinkTraversals: linux.MaxSymlinkTraversals, UTSNamespace: k.RootUTSNamespace(),
		IPCNamespace: k.RootIPCNamespace(), PIDNamespace: k.RootPIDNamespace(), ContainerID: containerName,
	}
	ctx := args.NewContext(k)
	stdio := map[int]*fd.FD{}
	for i := range 3 {
		file, err := os.OpenFile("/dev/stderr", os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			return err
		}
		stdio[i], err = fd.NewFromFile(file)
		if err != nil {
			return err
		}
	}
	args.FDTable = k.NewFDTable()
	defer args.FDTable.DecRef(ctx)
	if _, err := fdimport.Import(ctx, args.FDTable, stdio, fdimport.ImportOptions{}); err != nil {
		return err
	}
	var err error
	args.MountNamespace, err = k.VFS().NewMountNamespace(ctx, args.Credentials, "root", tmpfs.Name, &vfs.MountOptions{
		GetFilesystemOptions: vfs.GetFilesystemOptions{InternalMount: true},
	}, k)
	if err != nil {
		return err
	}
	if err := s.install(ctx, &args, program); err != nil {
		return err
	}
	_, _, err = k.CreateProcess(args)
	return err
}

// install copies the program into the root of the sandbox.
func (s *sandbox) install(ctx gcontext.Context, args *kernel.CreateProcessArgs, program string) error {
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	root := args.MountNamespace.Root(ctx)
	defer root.DecRef(ctx)
	path := &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(args.Filename)}
	file, err := s.kernel.VFS().OpenAt(ctx, args.Credentials, path, &vfs.OpenOptions{Flags: linux.O_CREAT | linux.O_WRONLY, Mode: 0o755})
	if err != nil {
		return err
	}
	defer file.DecRef(ctx)
	n, err := file.Write(ctx, usermem.BytesIOSequence(data), vfs.WriteOptions{})
	if err == nil && n != int64(len(data)) {
		err = fmt.Errorf("wrote %d of %d bytes", n, len(data))
	}
	return err
}

// installFilter puts the process under the filter of a sentry and what tracking
// asks for, as a sandbox is.
func (s *sandbox) installFilter(d Descriptors) error {
	options := config.Options{Platform: s.tracker.SeccompInfo()}
	allowed, denied := config.Rules(options)
	allowed.Merge(d.SeccompRules())
	program := &seccomp.Program{
		RuleSets: []seccomp.RuleSet{{Rules: denied}, {Rules: allowed, Action: seccomp.Allow}},
		Options:  config.SeccompOptions(options),
	}
	instructions, _, err := program.Build()
	if err != nil {
		return err
	}
	return seccomp.SetFilter(instructions)
}

// runTorture boots a sandbox, and collects and audits.
func runTorture(run tortureRun) (tortureResult, error) {
	var result tortureResult
	descriptors, err := OpenDescriptors()
	if err != nil {
		return result, err
	}
	s, err := bootSandbox(run.Guest, run.Only, Options{Descriptors: descriptors, Disable: run.Disable})
	if err != nil {
		return result, err
	}
	if err := s.installFilter(descriptors); err != nil {
		return result, err
	}
	time.Sleep(10 * tortureRoundTime)
	scanner := pages.NewScanner(pages.ScanOptions{})
	send := func(only *Set) error {
		_, err := scanner.Round(context.Background(), s.memoryFile.FD(), s.memoryFile.TotalSize(), only, nil)
		return err
	}
	if _, err := s.tracker.Arm(); err != nil {
		return result, err
	}
	if err := send(nil); err != nil {
		return result, err
	}
	for round := 1; round <= run.Rounds; round++ {
		time.Sleep(tortureRoundTime)
		audit := round%tortureAuditEvery == 0
		if audit {
			s.kernel.Pause()
			s.kernel.ReceiveTaskStates()
		}
		set, stats, err := s.tracker.Collect()
		if err != nil {
			return result, err
		}
		result.PagesDirty += stats.Pages
		result.Faults += stats.Faults
		result.Vanished += stats.VanishedPages
		result.SentryPages += stats.SentryPages
		if err := send(set); err != nil {
			return result, err
		}
		if !audit {
			continue
		}
		verdict, err := pages.Audit(s.memoryFile.FD(), s.memoryFile.TotalSize(), &scanner.Table)
		if err != nil {
			return result, err
		}
		verdict.Missed.Subtract(s.clockPages)
		result.PagesChecked += verdict.PagesChecked
		result.PagesMissed += verdict.Missed.Count()
		if err := send(verdict.Missed); err != nil { // count each only once
			return result, err
		}
		s.kernel.Unpause()
	}
	return result, s.tracker.Disarm()
}
