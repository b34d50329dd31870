"""The main job: run a batch of agent conversations over a pool. Only the command line imports this
package."""
