// Kubernetes, etcd, CoreDNS and helm in one binary. The name it is called by, or else its first word, says which program
// runs; one process runs one program, because several of them claim the process's signals and flags.
package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"

	"github.com/coredns/coredns/coremain"
	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/embed"
	helm "helm.sh/helm/v4/pkg/cmd"
	"k8s.io/component-base/cli"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// Each returns the exit status.
var programs = map[string]func() int{
	"coredns":                 runCoreDNS,
	"etcd":                    func() int { return cli.Run(newEtcdCommand()) },
	"helm":                    runHelm,
	"kube-apiserver":          func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kube-controller-manager": func() int { return cli.Run(controllers.NewControllerManagerCommand()) },
	"kube-proxy":              func() int { return cli.Run(proxy.NewProxyCommand()) },
	"kube-scheduler":          func() int { return cli.Run(scheduler.NewSchedulerCommand()) },
	"kubectl":                 func() int { return cli.Run(kubectl.NewDefaultKubectlCommand()) },
	"kubelet":                 func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) },
}

func main() {
	name := filepath.Base(os.Args[0])
	if programs[name] == nil && len(os.Args) > 1 {
		os.Args = os.Args[1:]
		name = os.Args[0]
	}
	program := programs[name]
	if program == nil {
		fmt.Fprintf(os.Stderr, "unknown program %q, one of %v\n", name, slices.Sorted(maps.Keys(programs)))
		os.Exit(2)
	}
	os.Exit(program())
}

func runCoreDNS() int {
	coremain.Run()
	return 0
}

func runHelm() int {
	command, err := helm.NewRootCmd(os.Stdout, os.Args[1:], helm.SetupLogging)
	if err == nil {
		err = command.Execute()
	}
	if failure, ok := errors.AsType[helm.CommandError](err); ok {
		return failure.ExitCode
	}
	if err != nil {
		return 1
	}
	return 0
}

// One member that never syncs to disk: its data end with the cluster.
func newEtcdCommand() *cobra.Command {
	config := embed.NewConfig()
	config.UnsafeNoFsync = true
	config.LogLevel = "warn"
	command := &cobra.Command{Use: "etcd", SilenceUsage: true}
	flags := command.Flags()
	flags.StringVar(&config.Dir, "data-dir", "", "directory of the data")
	flags.Func("client-url", "where clients connect", setURL(&config.ListenClientUrls, &config.AdvertiseClientUrls))
	flags.Func("peer-url", "where peers would connect", setURL(&config.ListenPeerUrls, &config.AdvertisePeerUrls))
	command.RunE = func(*cobra.Command, []string) error {
		config.InitialCluster = config.InitialClusterFromName(config.Name)
		server, err := embed.StartEtcd(config)
		if err != nil {
			return err
		}
		return <-server.Err()
	}
	return command
}

func setURL(fields ...*[]url.URL) func(string) error {
	return func(text string) error {
		parsed, err := url.Parse(text)
		if err != nil {
			return err
		}
		for _, field := range fields {
			*field = []url.URL{*parsed}
		}
		return nil
	}
}
