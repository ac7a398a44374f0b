"""Moving objects of a log without labels, found from its LiDAR.

The way of the data, with lengths in metres and everything in the world's frame (z up):

    sweeps -> Turn          `obstacles`: each sweep, with the returns between the road (`ground`) and 4.5 m above it marked
           -> emptied [N]   `visibility`: other sweeps looked through the return's place, so that it was free at another time
           -> Detection     `clusters`: returns of one sweep that hang together
           -> Path          `tracking`: detections of one body, each registered (`registration`: x, y, yaw) to its shape so far;
                            `stitching` joins broken ones
           -> ActorTrack    `boxes`: one size and smooth poses, for paths that get somewhere, do not wobble and fit a vehicle

What is emptied and hangs together but belongs to no such track, and does not stand, is transient: `find` gives both, and `apply` puts
them into a log: tracks as actors, transient returns out of the sweeps, their outlines into masks of the frames.
"""
