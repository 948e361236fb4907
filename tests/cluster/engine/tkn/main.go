// tkn with the commands for pipelines and tasks. Its own main program needs a module that cannot be had.
package main

import (
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/tektoncd/cli/pkg/cli"
	"github.com/tektoncd/cli/pkg/cmd/pipeline"
	"github.com/tektoncd/cli/pkg/cmd/pipelinerun"
	"github.com/tektoncd/cli/pkg/cmd/task"
	"github.com/tektoncd/cli/pkg/cmd/taskrun"
	"github.com/tektoncd/cli/pkg/cmd/version"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
)

func main() {
	// Libraries add flags of theirs to it.
	pflag.CommandLine = pflag.NewFlagSet(os.Args[0], pflag.ExitOnError)
	params := &cli.TektonParams{}
	tkn := &cobra.Command{Use: "tkn", Short: "CLI for tekton pipelines", SilenceUsage: true}
	tkn.AddCommand(
		pipeline.Command(params),
		pipelinerun.Command(params),
		task.Command(params),
		taskrun.Command(params),
		version.Command(params),
	)
	if tkn.Execute() != nil {
		os.Exit(1)
	}
}
